// Products with the matrices of experts that were chosen on the device; a warp has R rows of one expert's matrix.
//
//     chosen  float rows, chosen_stride apart: the numbers of `count` experts, which Route always leaves valid
//     x       rows, x_stride bytes apart: 8-bit codes with scales behind them (activations.py) of x_blocks blocks where the
//             matrix is of codes, floats where it is of numbers (CODES 0). With `own`, each chosen expert has a part of the
//             row, one behind the other; else all have the same
//     shares  float rows, chosen_stride apart (SUMMED)
//     bias    [expert][rows, in whole blocks of 32] float, or 0
//     y       float rows, y_stride apart: `count` parts of `rows` columns, or their sum by shares with SUMMED; it is added
//             to with ADD. Zeros behind the rows up to `end`
//
// Sums are in the same order whatever R is and whatever else is in a step: columns in a lane, then parts by their place,
// then lanes. Every step is one fused operation, so that compilers have no choice of which are fused.
// Grid: (rows in groups of a block's) x (rows of x, each with its parts unless SUMMED), the latter fastest: so a bulk step
// goes through the same rows of all experts' matrices before it goes on, and those that several rows chose are in L2.
#include "elementwise.cuh"
#include "stream.cuh"
#if CODES
#include "dots.cuh"
#else
#include "numbers.cuh"
#endif

#define AHEAD (4 / R)  // steps whose weights are read before the first is used

#if CODES
typedef Raw Piece;  // what a lane multiplies at a time: a block of 32 columns

__device__ __forceinline__ Piece get_piece(const Args& a, int row, int piece) {
    const Weights w = WEIGHTS(a);
    return fetch(w, row * a.blocks + piece);
}

// acc[r] += a piece of R rows (from row number `first` of all experts' on) times that of x, whose columns begin at `from`.
__device__ __forceinline__ void add_piece(
    const Args& a, const char* x, int from, int first, int last, int piece, const Piece (&raw)[R], float (&acc)[R]
) {
    const EightBits eight = activations(x, a.x_blocks, from / 32 + piece);
#pragma unroll
    for (int r = 0; r < R; r++) {
        int q[8];
        Scale s[HALVES];
        codes(raw[r], q);
        scales(raw[r], min(first + r, last) * a.blocks + piece, s);
        acc[r] = added(acc[r], q, s, eight);
    }
}

#define PIECES(a) (a).blocks
#else
typedef uint4 Piece;  // 16 bytes of numbers

__device__ __forceinline__ Piece get_piece(const Args& a, int row, int piece) {
    return stream((const uint4*)a.low + (long long)row * (a.blocks * (32 / NUMBERS)) + piece);
}

__device__ __forceinline__ void add_piece(
    const Args& a, const char* x, int from, int, int, int piece, const Piece (&raw)[R], float (&acc)[R]
) {
    float eight[NUMBERS];
#pragma unroll
    for (int i = 0; i < NUMBERS; i += QUAD) {
        const int c = piece * NUMBERS + i;
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (c < a.columns) v = within(get_quad((const float*)x + from + c), c, a.columns);
        eight[i] = v.x, eight[i + 1] = v.y, eight[i + 2] = v.z, eight[i + 3] = v.w;
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        float w[NUMBERS];
        numbers(raw[r], w);
#pragma unroll
        for (int i = 0; i < NUMBERS; i++) acc[r] = fmaf(w[i], eight[i], acc[r]);
    }
}

#define PIECES(a) ((a).blocks * (32 / NUMBERS))
#endif

// What this lane has of R rows of one expert's product: rows first to first + R of all experts', of which `last` is there.
__device__ __forceinline__ void multiply(
    const Args& a, const char* x, int from, int first, int last, float (&acc)[R]
) {
    const int lane = threadIdx.x % WARP;
#pragma unroll 1
    for (int at = lane; at < PIECES(a); at += AHEAD * WARP) {
        Piece raw[AHEAD][R];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int r = 0; r < R; r++)
                raw[i][r] = get_piece(a, min(first + r, last), min(at + i * WARP, PIECES(a) - 1));
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (at + i * WARP < PIECES(a)) add_piece(a, x, from, first, last, at + i * WARP, raw[i], acc);
    }
}

KERNEL(expert_matmul) {
    const int pairs = SUMMED ? a.x_rows : a.x_rows * a.count;
    const int group = blockIdx.x / pairs, pair = blockIdx.x % pairs, row = SUMMED ? pair : pair / a.count;
    const int first = (group * (THREADS / WARP) + threadIdx.x / WARP) * R;
    const float* chosen = a.chosen + (long long)row * a.chosen_stride;
    const int begin = SUMMED ? 0 : pair % a.count, end = SUMMED ? a.count : begin + 1;
    const char* x = (const char*)a.x + row * a.x_stride;
    float sums[R] = {}, biases[R] = {};
#pragma unroll 1
    for (int part = begin; part < end; part++) {
        const int expert = (int)chosen[part], start = expert * a.rows;
        const float share = SUMMED ? a.shares[(long long)row * a.chosen_stride + part] : 1.0f;
        float acc[R] = {};
        multiply(a, x, a.own ? part * a.columns : 0, start + first, start + a.rows - 1, acc);
#pragma unroll
        for (int r = 0; r < R; r++) {
            sums[r] = fmaf(share, acc[r], sums[r]);
            if (a.bias != 0 && first + r < a.rows)
                biases[r] = fmaf(share, a.bias[(long long)expert * a.bias_stride + first + r], biases[r]);
        }
    }
    float* y = a.y + row * a.y_stride + (SUMMED ? 0 : begin * a.rows);
#pragma unroll
    for (int r = 0; r < R; r++) {
        const float sum = warp_sum(sums[r]);
        if (threadIdx.x % WARP != 0 || first + r >= a.end) continue;
        float made = first + r < a.rows ? fmaf(sum, a.multiplier, biases[r]) : 0.0f;
        if (ADD) made += y[first + r];
        y[first + r] = made;
    }
}
