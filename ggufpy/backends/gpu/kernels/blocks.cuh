// Blocks of 32 columns of a matrix of codes, as formats.py says that they lie. Compiled with BITS, OFFSET, GROUP, SCALES
// (0 half, 1 sixes, 2 bytes, 3 nibbles), MINIMUM, SHARE, BOOK and BOOK0 to BOOK3.
//
// A block is fetched into registers (`fetch`), several before the first is used, and then taken apart: `codes` gives 8
// words of 4 signed bytes, columns in order, `scales` for each group of GROUP columns what makes weights of them:
//
//     weight = multiplier · (scale · code + base)
#include "stream.cuh"

#define HALVES (32 / GROUP)
// Codes come out less their offset, and no group has a base: of bytes, of a book, and of groups of 16.
#define SIGNED (!MINIMUM && (BITS == 8 || BOOK || GROUP == 16))
#define HAS_BASE (!SIGNED)

struct Weights {
    const void* low;
    const void* high;
    const void* scales;
    const void* tops;
};

// From the arguments that every kernel has which reads a matrix (weights.MATRIX_ARGS).
#define WEIGHTS(a) {(a).low, (a).high, (a).scales, (a).tops}

struct Raw {
#if BITS <= 3
    uint2 low;
#else
    uint4 low;
#endif
#if BITS == 3 || BITS == 5
    unsigned high;
#elif BITS == 6
    uint2 high;
#elif BITS == 8
    uint4 high;
#endif
#if SCALES == 1
    uint4 scale;
#else
    unsigned scale;
#endif
#if SCALES >= 2
    unsigned top;
#endif
};

struct Scale {
    float scale, base;
};

__device__ __forceinline__ float half_float(unsigned bits) {
    return __half2float(__ushort_as_half((unsigned short)bits));
}

// Block number i of the matrix: loads alone.
__device__ __forceinline__ Raw fetch(const Weights& w, int i) {
    Raw raw;
#if BITS <= 3
    raw.low = stream((const uint2*)w.low + i);
#else
    raw.low = stream((const uint4*)w.low + i);
#endif
#if BITS == 3 || BITS == 5
    raw.high = ((const unsigned*)w.high)[i];
#elif BITS == 6
    raw.high = stream((const uint2*)w.high + i);
#elif BITS == 8
    raw.high = stream((const uint4*)w.high + i);
#endif
#if SCALES == 1
    raw.scale = ((const uint4*)w.scales)[i / 8];
#elif SCALES >= 2
    raw.scale = ((const unsigned short*)w.scales)[i];
#if MINIMUM
    raw.top = ((const unsigned*)w.tops)[i / 8];
#else
    raw.top = ((const unsigned short*)w.tops)[i / 8];
#endif
#elif MINIMUM || GROUP == 16
    raw.scale = ((const unsigned*)w.scales)[i / SHARE];
#else
    raw.scale = ((const unsigned short*)w.scales)[i / SHARE];
#endif
    return raw;
}

// The codes of 4 columns less OFFSET, each in its byte: none borrows from its neighbour, as its highest bit is set
// before and turned back afterwards.
__device__ __forceinline__ unsigned less_offset(unsigned four) {
    return ((four | 0x80808080u) - 0x01010101u * OFFSET) ^ 0x80808080u;
}

#if BOOK
// Four bytes of the book, by the nibbles in the lower half of `four`: of either half of the book by three bits, then
// the one that the fourth bit says.
__device__ __forceinline__ int looked_up(unsigned four) {
    unsigned low = __byte_perm(BOOK0, BOOK1, four & 0x7777u), high = __byte_perm(BOOK2, BOOK3, four & 0x7777u);
    return (int)__byte_perm(low, high, 0x3210u | ((four & 0x8888u) >> 1));
}
#endif

// Word j (0 to 7): columns 4 j to 4 j + 3 of the block as signed bytes.
__device__ __forceinline__ void codes(const Raw& raw, int (&q)[8]) {
#if BITS == 8
    q[0] = raw.low.x, q[1] = raw.low.y, q[2] = raw.low.z, q[3] = raw.low.w;
    q[4] = raw.high.x, q[5] = raw.high.y, q[6] = raw.high.z, q[7] = raw.high.w;
#elif BOOK
    const unsigned words[4] = {raw.low.x, raw.low.y, raw.low.z, raw.low.w};
#pragma unroll
    for (int j = 0; j < 8; j++) q[j] = looked_up(words[j / 2] >> (16 * (j % 2)));
#else
#if BITS <= 3
    const unsigned words[2] = {raw.low.x, raw.low.y};
#else
    const unsigned words[4] = {raw.low.x, raw.low.y, raw.low.z, raw.low.w};
#endif
#if BITS == 6
    const unsigned pairs[2] = {raw.high.x, raw.high.y};
#endif
#pragma unroll
    for (int j = 0; j < 8; j++) {
#if BITS <= 3
        unsigned four = (words[j / 4] >> (2 * (j % 4))) & 0x03030303u;
#else
        unsigned four = (words[j % 4] >> (4 * (j / 4))) & 0x0f0f0f0fu;
#endif
#if BITS == 3
        four |= ((raw.high >> j) & 0x01010101u) << 2;
#elif BITS == 5
        four |= ((raw.high >> j) & 0x01010101u) << 4;
#elif BITS == 6
        four |= ((pairs[j / 4] >> (2 * (j % 4))) & 0x03030303u) << 4;
#endif
#if SIGNED
        four = less_offset(four);
#endif
        q[j] = (int)four;
    }
#endif
}

// Of block number i.
__device__ __forceinline__ void scales(const Raw& raw, int i, Scale (&s)[HALVES]) {
#if SCALES == 1
    const int at = 4 * (i % 8);
    const unsigned above = raw.scale.w >> at;
    const unsigned scale = ((raw.scale.y >> at) & 15u) | ((above & 3u) << 4);
    const unsigned minimum = ((raw.scale.z >> at) & 15u) | ((above & 12u) << 2);
    s[0].scale = half_float(raw.scale.x & 0xffffu) * (float)scale;
    s[0].base = -half_float(raw.scale.x >> 16) * (float)minimum;
#elif SCALES == 2
    const float d = half_float(raw.top);
    s[0].scale = d * (float)(signed char)(raw.scale & 0xffu);
    s[1].scale = d * (float)(signed char)(raw.scale >> 8);
    s[0].base = s[1].base = 0.0f;
#elif SCALES == 3
    const float d = half_float(raw.top & 0xffffu), dmin = -half_float(raw.top >> 16);
    s[0].scale = d * (float)(raw.scale & 15u), s[1].scale = d * (float)((raw.scale >> 8) & 15u);
    s[0].base = dmin * (float)((raw.scale >> 4) & 15u), s[1].base = dmin * (float)(raw.scale >> 12);
#elif MINIMUM
    s[0].scale = half_float(raw.scale & 0xffffu);
    s[0].base = half_float(raw.scale >> 16);
#elif GROUP == 16
    s[0].scale = half_float(raw.scale & 0xffffu), s[1].scale = half_float(raw.scale >> 16);
    s[0].base = s[1].base = 0.0f;
#else
    s[0].scale = half_float(raw.scale);
    s[0].base = SIGNED ? 0.0f : -(float)OFFSET * s[0].scale;
#endif
}
