// Rows as 8-bit codes (activations.py), made by whoever has their floats at hand: a quad of columns a thread.

// Writes a quad's codes to a row, and what belongs to its block of 32 columns: four neighbouring threads have one half of
// it, the next four the other. Codes are to nearest, ties to even, of 127 for a half's largest; halves that are next to
// zero are zeros. All threads of a warp come here; those whose columns are from `end` on, the end of the row's last block,
// write nothing.
__device__ __forceinline__ void put_codes(signed char* row, int c, float4 v, int end) {
    float largest = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
#pragma unroll
    for (int i = 2; i > 0; i /= 2) largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, i));
    const bool some = largest > 1e-30f;  // 127 / largest is finite
    const float by = some ? 127.0f / largest : 0.0f, scale = some ? largest / 127.0f : 0.0f;
    const float4 codes = each(v, [some, by](float x) { return some ? rintf(x * by) : 0.0f; });
    float sum = sum_of(codes);  // of whole numbers, so exact
#pragma unroll
    for (int i = 2; i > 0; i /= 2) sum += __shfl_xor_sync(FULL, sum, i);
    sum *= scale;
    const float next_scale = __shfl_xor_sync(FULL, scale, 4), next_sum = __shfl_xor_sync(FULL, sum, 4);
    if (c >= end) return;
    *reinterpret_cast<char4*>(row + c) = make_char4((signed char)(int)codes.x, (signed char)(int)codes.y,
                                                    (signed char)(int)codes.z, (signed char)(int)codes.w);
    if (c % 32 == 0) reinterpret_cast<float4*>(row + end)[c / 32] = make_float4(scale, next_scale, sum, next_sum);
}
