// Blocks of 32 columns of a matrix as f16, whatever its format: of codes by blocks.cuh, of numbers as they are or rounded.
// Compiled with CODES 1 and what blocks.cuh wants, or with CODES 0 and NUMBER: 0 f16, 1 bf16.
//
// A block is brought into registers (`bring`) and put (`put`) as 64 bytes of halves later, so that loads can be on their
// way while something else is computed.
#include "common.cuh"
#if CODES
#include "blocks.cuh"

typedef Raw Brought;

__device__ __forceinline__ Brought bring(const Weights& w, int block) { return fetch(w, block); }

// Signed byte number I of a word as float: behind the exponent of 2^23 a byte is a number, which is 3 instructions of the
// full rate instead of a conversion of a quarter of it.
template <int I>
__device__ __forceinline__ float byte_float(unsigned flipped) {
    return __uint_as_float(__byte_perm(flipped, 0x4b000000u, 0x7540u + I)) - 8388736.0f;
}

__device__ __forceinline__ unsigned two_halves(float first, float second) {
    const __half2 two = __floats2half2_rn(first, second);
    return (unsigned)__half_as_ushort(__low2half(two)) | (unsigned)__half_as_ushort(__high2half(two)) << 16;
}

__device__ __forceinline__ void put(const Brought& raw, int block, float multiplier, __half* to) {
    int words[8];
    Scale scale[HALVES];
    codes(raw, words);
    scales(raw, block, scale);
    unsigned out[16];
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const Scale& mine = scale[j * 4 / GROUP];
        const float s = mine.scale * multiplier, base = mine.base * multiplier;
        const unsigned flipped = (unsigned)words[j] ^ 0x80808080u;
        out[2 * j] = two_halves(fmaf(byte_float<0>(flipped), s, base), fmaf(byte_float<1>(flipped), s, base));
        out[2 * j + 1] = two_halves(fmaf(byte_float<2>(flipped), s, base), fmaf(byte_float<3>(flipped), s, base));
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
        ((uint4*)to)[j] = make_uint4(out[4 * j], out[4 * j + 1], out[4 * j + 2], out[4 * j + 3]);
}
#else
struct Weights {
    const void* low;
};

#define WEIGHTS(a) {(a).low}

struct Brought {
    uint4 part[4];
};

__device__ __forceinline__ Brought bring(const Weights& w, int block) {
    Brought brought;
#pragma unroll
    for (int j = 0; j < 4; j++) brought.part[j] = ((const uint4*)w.low)[4LL * block + j];
    return brought;
}

// Two of bf16, the first in the low bits, as two of f16; what is beyond f16's range is its largest.
__device__ __forceinline__ unsigned to_f16(unsigned two) {
    const float first = __uint_as_float(two << 16), second = __uint_as_float(two & 0xffff0000u);
    const __half2 made = __floats2half2_rn(
        fminf(fmaxf(first, -65504.0f), 65504.0f), fminf(fmaxf(second, -65504.0f), 65504.0f));
    return (unsigned)__half_as_ushort(__low2half(made)) | (unsigned)__half_as_ushort(__high2half(made)) << 16;
}

__device__ __forceinline__ void put(const Brought& brought, int, float, __half* to) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const uint4 v = brought.part[j];
        ((uint4*)to)[j] = NUMBER == 1 ? make_uint4(to_f16(v.x), to_f16(v.y), to_f16(v.z), to_f16(v.w)) : v;
    }
}
#endif

__device__ __forceinline__ void put_zeros(__half* to) {
#pragma unroll
    for (int j = 0; j < 4; j++) ((uint4*)to)[j] = make_uint4(0u, 0u, 0u, 0u);
}
