// A product of many rows with a packed matrix: blocks are decoded to f16 in shared memory, multiplied on tensor cores.
//
//     x       half rows, x_stride apart, whole tiles of them (to_half.cu), columns in whole steps of TK
//     x_scales  float by row: what the row was multiplied by
//     y       float rows, y_stride apart; columns to `end` are written, zeros behind the matrix's rows
//     sums    with SPLIT: [part][whole tiles of rows][padded] float, what parts of the columns add up to (join_sums.cu)
//
// A block of threads makes TM rows of y by TN of its columns, a warp 32 by 32 of them: while tensor cores work on one
// step of TK columns in shared memory, the next is on its way to registers. Rows of shared memory are 16 bytes longer than
// what they hold, so that the eight rows of a matrix that ldmatrix reads are in different banks.
// Grid: (columns of y, rows, parts) in tiles; each part has steps_a_part steps.
#include "mma.cuh"
#include "half_block.cuh"

#define TM 64
#define TN 64
#define TK 64
#define PITCH (TK + 8)

typedef __half Tile[TM][PITCH];

// sums += 32 rows of x by 32 of the matrix, over a step's TK columns.
__device__ __forceinline__ void multiply(float (&sums)[2][4][4], const __half* x, const __half* w, int lane) {
#pragma unroll
    for (int k = 0; k < TK; k += 16) {
        unsigned xf[2][4], wf[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            load_matrices(xf[i], x + (16 * i + lane % 16) * PITCH + k + lane / 16 * 8);
            load_matrices(wf[i], w + (16 * i + lane / 16 * 8 + lane % 8) * PITCH + k + lane / 8 % 2 * 8);
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const unsigned column[2] = {wf[j / 2][j % 2 * 2], wf[j / 2][j % 2 * 2 + 1]};
                mma_f16(sums[i][j], xf[i], column);
            }
    }
}

// Two columns of a row of y, or of a part's sums.
__device__ __forceinline__ void finish(const Args& a, int row, int column, float first, float second) {
    if (SPLIT) {
        float* sums = a.sums + ((long long)blockIdx.z * gridDim.y * TM + row) * a.padded + column;
        *(float2*)sums = make_float2(first, second);
        return;
    }
    if (row >= a.rows) return;
    const float by = 1.0f / a.x_scales[row];
    float* y = a.y + (long long)row * a.y_stride + column;
    const float2 old = ADD ? *(const float2*)y : make_float2(0.0f, 0.0f);
    const float2 bias = a.bias != 0 ? *(const float2*)(a.bias + column) : make_float2(0.0f, 0.0f);
    if (column < a.end) y[0] = old.x + bias.x + first * by;
    if (column + 1 < a.end) y[1] = old.y + bias.y + second * by;
}

KERNEL(matmul_mma) {
    __align__(16) __shared__ Tile xs[2];
    __align__(16) __shared__ Tile ws[2];
    const int thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    const int n0 = blockIdx.x * TN, m0 = blockIdx.y * TM, wm = warp / 2 * 32, wn = warp % 2 * 32;
    const int begin = blockIdx.z * a.steps_a_part, end = min(begin + a.steps_a_part, a.steps);
    // What a thread brings: 16 bytes of each of four rows of x, and a block of 32 columns of a row of the matrix.
    const int x_row = thread / 8, x_at = thread % 8 * 8, w_row = thread / 2, w_block = thread % 2;
    const __half* x = (const __half*)a.x + (long long)(m0 + x_row) * a.x_stride + x_at;
    uint4 bits[4];
    const Weights w = WEIGHTS(a);
    const int w_first = (n0 + w_row) * a.blocks;  // of the matrix's blocks, this row's first
    bool there = false;
    Brought brought;
    float sums[2][4][4] = {};
    for (int step = begin; step <= end; step++) {
        if (step < end) {
#pragma unroll
            for (int i = 0; i < 4; i++) bits[i] = *(const uint4*)(x + 16LL * i * a.x_stride + step * TK);
            there = n0 + w_row < a.w_rows && 2 * step + w_block < a.blocks;
            if (there) brought = bring(w, w_first + 2 * step + w_block);
        }
        if (step > begin)
            multiply(sums, &xs[(step - 1) % 2][wm][0], &ws[(step - 1) % 2][wn][0], lane);
        if (step < end) {
#pragma unroll
            for (int i = 0; i < 4; i++) *(uint4*)&xs[step % 2][x_row + 16 * i][x_at] = bits[i];
            __half* to = &ws[step % 2][w_row][32 * w_block];
            if (there) put(brought, w_first + 2 * step + w_block, a.multiplier, to);
            else put_zeros(to);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int row = m0 + wm + 16 * i + lane / 4, column = n0 + wn + 8 * j + lane % 4 * 2;
            if (column >= a.padded) continue;
            finish(a, row, column, sums[i][j][0], sums[i][j][1]);
            finish(a, row + 8, column, sums[i][j][2], sums[i][j][3]);
        }
}
