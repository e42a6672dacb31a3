// Stands for the device where kernels are compiled for the CPU: qualifiers, vector types, what threads do together.
#pragma once
#define GGUFPY_SHIM
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "runtime.h"

#define __device__
#define __host__
#define __global__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static __attribute__((section("shim_shared")))  // blocks run one after another

extern "C" {  // the linker makes them where a kernel has such memory
extern char __start_shim_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_shim_shared[] __attribute__((weak, visibility("hidden")));
extern const char __ehdr_start[] __attribute__((visibility("hidden")));  // where the library is loaded
extern const char _end[] __attribute__((visibility("hidden")));
}

#define KERNEL(name)                                                                                            \
    void name(const Args a);                                                                                    \
    void shim_run(const void* args) { name(*static_cast<const Args*>(args)); }                                  \
    constexpr const char* shim_name = #name;                                                                    \
    void name(const Args a)

#define threadIdx (shim_now->thread)
#define blockIdx (shim_now->block)
#define blockDim (shim_now->threads)
#define gridDim (shim_now->blocks)
#define warpSize 32

// ---- vector types -------------------------------------------------------------------------------------------------
#define SHIM_VECTOR2(name, type, bytes)    \
    struct alignas(bytes) name {           \
        type x, y;                         \
    };                                     \
    inline name make_##name(type x, type y) { return {x, y}; }
#define SHIM_VECTOR3(name, type)           \
    struct name {                          \
        type x, y, z;                      \
    };                                     \
    inline name make_##name(type x, type y, type z) { return {x, y, z}; }
#define SHIM_VECTOR4(name, type, bytes)    \
    struct alignas(bytes) name {           \
        type x, y, z, w;                   \
    };                                     \
    inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }
SHIM_VECTOR2(char2, signed char, 2)
SHIM_VECTOR2(uchar2, unsigned char, 2)
SHIM_VECTOR2(short2, short, 4)
SHIM_VECTOR2(ushort2, unsigned short, 4)
SHIM_VECTOR2(int2, int, 8)
SHIM_VECTOR2(uint2, unsigned, 8)
SHIM_VECTOR2(float2, float, 8)
SHIM_VECTOR2(longlong2, long long, 16)
SHIM_VECTOR2(ulonglong2, unsigned long long, 16)
SHIM_VECTOR2(double2, double, 16)
SHIM_VECTOR3(int3, int)
SHIM_VECTOR3(float3, float)
SHIM_VECTOR4(char4, signed char, 4)
SHIM_VECTOR4(uchar4, unsigned char, 4)
SHIM_VECTOR4(short4, short, 8)
SHIM_VECTOR4(ushort4, unsigned short, 8)
SHIM_VECTOR4(int4, int, 16)
SHIM_VECTOR4(uint4, unsigned, 16)
SHIM_VECTOR4(float4, float, 16)
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }

#include "arithmetic.h"
#include "halves.h"
#include "warp.h"
#include "tensor.h"
