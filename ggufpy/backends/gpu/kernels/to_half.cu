// Rows of activations as f16, for products of many rows; one block of threads a row.
//
//     x       float rows, x_stride apart, of `columns`
//     y       half rows, y_stride apart (a multiple of 8); what is behind the columns is zeros
//     scales  float by row: the power of two that the row was multiplied by
//
// f16 ends at 65504 and is exact to 11 bits above 2^-14 only. A row whose largest value is within 2^-4 .. 2^15 stays as it
// is (scale 1), so that its products need no more care; any other is multiplied so that its largest is within 2^8 .. 2^9.
// Scales end at 2^40: sums that are multiplied by them must stay finite. Rows that are not finite stay as they are.
#include "elementwise.cuh"

__device__ __forceinline__ float row_scale(float largest) {
    if (!(largest > 0.0f) || !(largest < 3.0e38f) || (largest >= 0.0625f && largest < 32768.0f)) return 1.0f;
    const int exponent = (int)((__float_as_uint(largest) >> 23) & 255u) - 127;
    return __uint_as_float((unsigned)(127 + min(8 - exponent, 40)) << 23);
}

KERNEL(to_half) {
    __shared__ float largest[THREADS / WARP];
    const int row = blockIdx.x, lane = threadIdx.x % WARP;
    const float* x = a.x + (long long)row * a.x_stride;
    float most = 0.0f;
    for (int c = QUAD * threadIdx.x; c < a.columns; c += QUAD * THREADS) {
        const float4 v = within(get_quad(x + c), c, a.columns);
        most = fmaxf(most, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
    }
    most = warp_max(most);
    if (lane == 0) largest[threadIdx.x / WARP] = most;
    __syncthreads();
    for (int i = 0; i < THREADS / WARP; i++) most = fmaxf(most, largest[i]);
    const float scale = row_scale(most);
    if (threadIdx.x == 0) a.scales[row] = scale;
    __half2* y = (__half2*)((__half*)a.y + (long long)row * a.y_stride);
    for (int c = QUAD * threadIdx.x; c < a.y_stride; c += QUAD * THREADS) {
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (c < a.columns) v = within(get_quad(x + c), c, a.columns);
        y[c / 2] = __floats2half2_rn(v.x * scale, v.y * scale);
        y[c / 2 + 1] = __floats2half2_rn(v.z * scale, v.w * scale);
    }
}
