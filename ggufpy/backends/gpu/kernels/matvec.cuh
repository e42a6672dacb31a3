// What products of matrices and a few rows share. A launch has up to three matrices of one format that read the same
// rows, PARTS in all: arguments with 0 to 2 behind their names are of one of them. Compiled with N (rows of activations that share a reading of the
// weights: 1, 2, 4 or 8), R (rows of the matrix that a warp has: 1, 2 or 4) and SPLIT (warps that have the same rows,
// each a part of the columns).
//
// The bits of a product depend on neither N nor R: a thread adds its columns up in order, then the threads of a warp,
// then the warps, always in the same order.

#define WARPS (THREADS / WARP)
#define SUMS (R * N)  // of a warp: 32 at most
// Passes whose weights are read before the first is used.
#define AHEAD (N == 8 ? 1 : N == 1 ? 4 / R : 2)

// The sum over the lanes of each of SUMS values, in log steps: with every step a lane keeps half of the values, as long
// as it has several. Lanes from WARP / SUMS · i on then have value i.
__device__ __forceinline__ float sums_by_lane(float (&v)[SUMS], int lane) {
#pragma unroll
    for (int level = 0; level < 5; level++) {
        const int bit = 16 >> level, left = SUMS >> level;
        if (left > 1) {
#pragma unroll
            for (int j = 0; j < SUMS / 2; j++) {
                if (j < left / 2) {
                    const bool upper = lane & bit;
                    const float mine = upper ? v[j + left / 2] : v[j], other = upper ? v[j] : v[j + left / 2];
                    v[j] = mine + __shfl_xor_sync(FULL, other, bit);
                }
            }
        } else {
            v[0] += __shfl_xor_sync(FULL, v[0], bit);
        }
    }
    return v[0];
}

// One of the matrices.
struct Part {
    const void* low;
    const void* high;
    const void* scales;
    const void* tops;
    float multiplier;
    float* y;
    long long y_stride;
    const float* bias;
    int rows, end;  // zeros are written behind the last row up to `end`
    int add, first;  // the first of the grid's blocks that has it
};

#define PART(i) \
    {a.low##i, a.high##i, a.scales##i, a.tops##i, a.multiplier##i, a.y##i, a.y_stride##i, a.bias##i, a.rows##i, \
     a.end##i, a.add##i, a.first##i}

// That which this block has.
__device__ __forceinline__ Part part_of(const Args& a) {
#if PARTS == 3
    if ((int)blockIdx.x >= a.first2) return PART(2);
#endif
#if PARTS >= 2
    if ((int)blockIdx.x >= a.first1) return PART(1);
#endif
    return PART(0);
}

// The first of the rows of the matrix that this warp has.
__device__ __forceinline__ int first_row(const Part& part) {
    return (((int)blockIdx.x - part.first) * (WARPS / SPLIT) + threadIdx.x / WARP / SPLIT) * R;
}

// Writes what a warp has added up: acc[n · R + r] for row r of its rows, from `first` on, and row n of the `count` of
// the activations. Every thread of the block comes here.
__device__ __forceinline__ void finish(const Part& part, float (&acc)[SUMS], int first, int count) {
    const int lane = threadIdx.x % WARP, mine = lane / (WARP / SUMS);
    float sum = sums_by_lane(acc, lane);
    const bool one = lane % (WARP / SUMS) == 0;  // of the lanes that have the same value
#if SPLIT > 1
    __shared__ float parts[WARPS][SUMS];
    const int warp = threadIdx.x / WARP;
    if (one) parts[warp][mine] = sum;
    __syncthreads();
    if (warp % SPLIT) return;
#pragma unroll
    for (int i = 1; i < SPLIT; i++) sum += parts[warp + i][mine];
#endif
    const int row = first + mine % R, n = mine / R;
    if (!one || n >= count || row >= part.end) return;
    float* const y = part.y + n * part.y_stride + row;
    if (row >= part.rows) {
        *y = 0.0f;
        return;
    }
    float out = fmaf(sum, part.multiplier, part.bias ? part.bias[row] : 0.0f);
    if (part.add) out += *y;
    *y = out;
}
