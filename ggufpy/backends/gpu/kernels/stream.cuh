// Reading of what is read once: it is not kept in the first cache, where the activations are.
__device__ __forceinline__ uint4 stream(const uint4* p) {
#ifdef GGUFPY_SHIM
    return *p;
#else
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
#endif
}

__device__ __forceinline__ uint2 stream(const uint2* p) {
#ifdef GGUFPY_SHIM
    return *p;
#else
    uint2 v;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
#endif
}
