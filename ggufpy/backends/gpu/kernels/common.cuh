// What every kernel has: its entry, and what threads of a warp do together.
// The same sources are compiled for the CPU in tests, where a small header stands for the device (GGUFPY_SHIM).
#ifndef GGUFPY_SHIM
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#ifdef __CUDACC_RTC__  // which has no math.h
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifdef RESIDENT  // blocks that a multiprocessor has at once: compilers may use as many registers as that leaves
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) name(const Args a)
#else
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(THREADS) name(const Args a)
#endif
#endif

#define WARP 32
#define FULL 0xffffffffu

// The sum over the threads of a warp, in each of them.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int i = WARP / 2; i > 0; i /= 2) x += __shfl_xor_sync(FULL, x, i);
    return x;
}

// The largest over the threads of a warp, in each of them.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int i = WARP / 2; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(FULL, x, i));
    return x;
}
