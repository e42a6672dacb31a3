// Turning the first ROTATED dimensions of a head by the angles of its row. Pair i is dimensions (2i, 2i + 1), or
// (i, i + ROTATED / 2) with NEOX.
#define PAIRS (ROTATED / 2)

__device__ __forceinline__ int first_of(int pair) { return NEOX ? pair : 2 * pair; }
__device__ __forceinline__ int second_of(int pair) { return NEOX ? pair + PAIRS : 2 * pair + 1; }

// Pair `pair` of `from` to `to`, which may be the same; `angles` are the row's (cosine, sine).
__device__ __forceinline__ void turn(const float *from, float *to, const float *angles, int pair) {
    const float2 by = ((const float2 *)angles)[pair];
    const float x = from[first_of(pair)], y = from[second_of(pair)];
    to[first_of(pair)] = x * by.x - y * by.y;
    to[second_of(pair)] = x * by.y + y * by.x;
}
