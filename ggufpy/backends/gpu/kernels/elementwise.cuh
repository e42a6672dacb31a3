// Rows of floats, four neighbouring columns (a quad) at a time. Rows begin at 16 bytes and are as far apart as whole
// blocks of 32, so that a quad may be read wherever one of its columns is to be read.
#include "common.cuh"

#define QUAD 4

// The first column of this thread's quad, where threads share a row out and blockIdx.y is the row.
__device__ __forceinline__ int first_column() { return QUAD * (blockIdx.x * THREADS + threadIdx.x); }

__device__ __forceinline__ float4 get_quad(const float* x) { return *reinterpret_cast<const float4*>(x); }

// Writes columns c to c + 3 of a row, but none from `end` on.
__device__ __forceinline__ void put_quad(float* y, int c, float4 v, int end) {
    if (c + QUAD <= end) {
        *reinterpret_cast<float4*>(y + c) = v;
        return;
    }
    if (c < end) y[c] = v.x;
    if (c + 1 < end) y[c + 1] = v.y;
    if (c + 2 < end) y[c + 2] = v.z;
}

// v, which begins at column c, with zeros from `columns` on.
__device__ __forceinline__ float4 within(float4 v, int c, int columns) {
    return make_float4(c < columns ? v.x : 0.0f, c + 1 < columns ? v.y : 0.0f, c + 2 < columns ? v.z : 0.0f,
                       c + 3 < columns ? v.w : 0.0f);
}

template <typename F>
__device__ __forceinline__ float4 each(float4 v, F f) {
    return make_float4(f(v.x), f(v.y), f(v.z), f(v.w));
}

template <typename F>
__device__ __forceinline__ float4 each(float4 v, float4 w, F f) {
    return make_float4(f(v.x, w.x), f(v.y, w.y), f(v.z, w.z), f(v.w, w.w));
}

__device__ __forceinline__ float sum_of(float4 v) { return (v.x + v.y) + (v.z + v.w); }

// The sum over the threads of N warps, in each of them, always in the same order. With more than one warp they are
// the whole block, and `room` has a float for each that nothing else uses.
template <int N>
__device__ __forceinline__ float sum_of_warps(float x, float* room) {
    x = warp_sum(x);
    if (N == 1) return x;
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) sum += room[i];
    return sum;
}
