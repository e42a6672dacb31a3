// Blocks of a matrix as f16 in memory, one after the other, a thread each.
//
//     out  [block - first][32] half: blocks first to first + count; from block `ends` on there are zeros
//
// What threads have decoded goes through shared memory, so that a warp writes consecutive bytes. A block has 80 bytes
// there, of which 64 are its own: so eight threads' 16 bytes are in different banks.
#include "half_block.cuh"

#define PITCH 40

KERNEL(decode_half) {
    __align__(16) __shared__ __half decoded[THREADS * PITCH];
    const int begin = blockIdx.x * THREADS, block = a.first + begin + threadIdx.x;
    __half* mine = decoded + threadIdx.x * PITCH;
    if (block < a.ends) {
        const Weights w = WEIGHTS(a);
        put(bring(w, block), block, a.multiplier, mine);
    } else {
        put_zeros(mine);
    }
    __syncthreads();
    uint4* out = (uint4*)a.out + 4LL * begin;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int part = i * THREADS + threadIdx.x;
        if (begin + part / 4 < a.count) out[part] = *(const uint4*)(decoded + part / 4 * PITCH + part % 4 * 8);
    }
}
