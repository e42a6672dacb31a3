// Which rows chose each expert, for products of many rows; one block of threads.
//
//     chosen  float rows, chosen_stride apart: the numbers of `count` experts for each of `rows` rows
//     pairs   row * count + place, by expert; in any order within one, which no result depends on
//     tiles   (expert, first of its pairs, how many) of at most TM pairs of one expert each, as many as tile_count says
//
// EXPERTS: how many there are.
#include "common.cuh"

#define TM 64

// The sum of x over the lanes before this one; `all` is that over all lanes.
__device__ __forceinline__ int before(int x, int lane, int& all) {
    int sum = x;
#pragma unroll
    for (int i = 1; i < WARP; i *= 2) {
        const int other = __shfl_up_sync(FULL, sum, i);
        if (lane >= i) sum += other;
    }
    all = __shfl_sync(FULL, sum, WARP - 1);
    return sum - x;
}

// A warp: where each expert's pairs begin, and all tiles. What `counts` has of an expert becomes its beginning.
__device__ __forceinline__ void make_tiles(const Args& a, int* counts, int lane) {
    int start = 0, tile = 0;
    for (int e0 = 0; e0 < EXPERTS; e0 += WARP) {
        const int count = e0 + lane < EXPERTS ? counts[e0 + lane] : 0;
        int all_pairs, all_tiles;
        const int mine = start + before(count, lane, all_pairs);
        int at = tile + before((count + TM - 1) / TM, lane, all_tiles);
        for (int i = 0; i < count; i += TM, at++) {
            a.tiles[3 * at] = e0 + lane;
            a.tiles[3 * at + 1] = mine + i;
            a.tiles[3 * at + 2] = min(TM, count - i);
        }
        if (e0 + lane < EXPERTS) counts[e0 + lane] = mine;
        start += all_pairs;
        tile += all_tiles;
    }
    if (lane == 0) *a.tile_count = tile;
}

KERNEL(expert_lists) {
    __shared__ int counts[EXPERTS];
    const int all = a.rows * a.count;
    for (int e = threadIdx.x; e < EXPERTS; e += THREADS) counts[e] = 0;
    __syncthreads();
    for (int pair = threadIdx.x; pair < all; pair += THREADS)
        atomicAdd(&counts[(int)a.chosen[(long long)(pair / a.count) * a.chosen_stride + pair % a.count]], 1);
    __syncthreads();
    if (threadIdx.x < WARP) make_tiles(a, counts, threadIdx.x);
    __syncthreads();
    for (int pair = threadIdx.x; pair < all; pair += THREADS) {
        const int expert = (int)a.chosen[(long long)(pair / a.count) * a.chosen_stride + pair % a.count];
        a.pairs[atomicAdd(&counts[expert], 1)] = pair;
    }
}
