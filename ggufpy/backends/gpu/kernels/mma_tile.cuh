// A tile of a product: TM rows of f16 by TN rows of a packed matrix, whose blocks are decoded to f16 in shared memory and
// multiplied on tensor cores by 128 threads, a warp 32 by 32.
//
// While tensor cores work on one step of TK columns in shared memory, the next is on its way to registers. Rows of shared
// memory are 16 bytes longer than what they hold, so that the eight rows of a matrix that ldmatrix reads are in different
// banks.
#include "mma.cuh"
#include "half_block.cuh"

#define TM 64
#define TN 64
#define TK 64
#define PITCH (TK + 8)
#define X_ROWS 4  // that a thread brings 16 bytes of: x_row() and each 16 behind it

typedef __half Tile[TM][PITCH];
typedef float Sums[2][4][4];  // [16 rows][8 columns][d of mma.cuh] of a warp

__device__ __forceinline__ int x_row() { return threadIdx.x / 8; }

// sums += 32 rows of x by 32 of the matrix, over a step's TK columns.
__device__ __forceinline__ void multiply(Sums& sums, const __half* x, const __half* w, int lane) {
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

// What a block of threads multiplies: x has this thread's rows, of which nothing is read that is not a column; `row` is the
// first of the matrix's rows (of all experts'), of which `count` are there. Steps begin to end of TK columns are added up.
__device__ __forceinline__ void multiply_tile(
    const Args& a, const __half* const (&x)[X_ROWS], int row, int count, int begin, int end, Sums& sums
) {
    __align__(16) __shared__ Tile xs[2];
    __align__(16) __shared__ Tile ws[2];
    const int thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP, wm = warp / 2 * 32, wn = warp % 2 * 32;
    // Beside x, a thread brings a block of 32 columns of a row of the matrix.
    const int x_at = thread % 8 * 8, w_row = thread / 2, w_block = thread % 2;
    const Weights w = WEIGHTS(a);
    const int w_first = (row + w_row) * a.blocks;
    uint4 bits[X_ROWS];
    bool there = false;
    Brought brought;
    for (int step = begin; step <= end; step++) {
        const int column = step * TK + x_at, block = step * (TK / 32) + w_block;
        if (step < end) {
#pragma unroll
            for (int i = 0; i < X_ROWS; i++)
                bits[i] = column < a.blocks * 32 ? *(const uint4*)(x[i] + column) : make_uint4(0u, 0u, 0u, 0u);
            there = w_row < count && block < a.blocks;
            if (there) brought = bring(w, w_first + block);
        }
        if (step > begin) multiply(sums, &xs[(step - 1) % 2][wm][0], &ws[(step - 1) % 2][wn][0], lane);
        if (step < end) {
#pragma unroll
            for (int i = 0; i < X_ROWS; i++) *(uint4*)&xs[step % 2][x_row() + 16 * i][x_at] = bits[i];
            __half* to = &ws[step % 2][w_row][32 * w_block];
            if (there) put(brought, w_first + block, a.multiplier, to);
            else put_zeros(to);
        }
        __syncthreads();
    }
}

// The row and the column of the tile that sums[i][j][0] is of; [1] is of the next column, [2] and [3] of the row 8 behind.
__device__ __forceinline__ int row_of(int i) { return threadIdx.x / WARP / 2 * 32 + 16 * i + threadIdx.x % WARP / 4; }

__device__ __forceinline__ int column_of(int j) {
    return threadIdx.x / WARP % 2 * 32 + 8 * j + threadIdx.x % WARP % 4 * 2;
}
