// Rows of a matrix of numbers: f16, bf16 or f32 by NUMBER (0, 1, 2), 16 bytes at a time.
#include "stream.cuh"

#define NUMBERS (NUMBER == 2 ? 4 : 8)  // in 16 bytes

__device__ __forceinline__ void numbers(const uint4& raw, float (&w)[NUMBERS]) {
    const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
#if NUMBER == 2
        w[i] = __uint_as_float(words[i]);
#elif NUMBER == 1
        w[2 * i] = __uint_as_float(words[i] << 16);
        w[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
#else
        w[2 * i] = __half2float(__ushort_as_half((unsigned short)(words[i] & 0xffffu)));
        w[2 * i + 1] = __half2float(__ushort_as_half((unsigned short)(words[i] >> 16)));
#endif
    }
}
