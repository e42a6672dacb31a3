// The device's arithmetic by its names, with the device's rounding where it is defined.
#pragma once

template <class T>
inline T __ldg(const T* at) { return *at; }
template <class T>
inline T __ldcs(const T* at) { return *at; }
template <class T>
inline T __ldcg(const T* at) { return *at; }
template <class T>
inline void __stcs(T* at, T value) { *at = value; }

#define SHIM_LEAST_MOST(type)                                      \
    inline type min(type a, type b) { return b < a ? b : a; }      \
    inline type max(type a, type b) { return a < b ? b : a; }
SHIM_LEAST_MOST(int)
SHIM_LEAST_MOST(unsigned)
SHIM_LEAST_MOST(long)
SHIM_LEAST_MOST(unsigned long)
SHIM_LEAST_MOST(long long)
SHIM_LEAST_MOST(unsigned long long)
inline unsigned min(int a, unsigned b) { return min(static_cast<unsigned>(a), b); }
inline unsigned min(unsigned a, int b) { return min(a, static_cast<unsigned>(b)); }
inline unsigned max(int a, unsigned b) { return max(static_cast<unsigned>(a), b); }
inline unsigned max(unsigned a, int b) { return max(a, static_cast<unsigned>(b)); }
inline long long min(long long a, int b) { return min(a, static_cast<long long>(b)); }
inline long long min(int a, long long b) { return min(static_cast<long long>(a), b); }
inline long long max(long long a, int b) { return max(a, static_cast<long long>(b)); }
inline long long max(int a, long long b) { return max(static_cast<long long>(a), b); }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

template <class To, class From>
inline To shim_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To made;
    memcpy(static_cast<void*>(&made), &value, sizeof made);
    return made;
}
inline unsigned __float_as_uint(float x) { return shim_bits<unsigned>(x); }
inline int __float_as_int(float x) { return shim_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return shim_bits<float>(x); }
inline float __int_as_float(int x) { return shim_bits<float>(x); }
inline long long __double_as_longlong(double x) { return shim_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return shim_bits<double>(x); }

// Never fused with what comes behind.
inline float shim_kept(float x) {
    asm volatile("" : "+m"(x));
    return x;
}
inline float __fadd_rn(float a, float b) { return shim_kept(a + b); }
inline float __fsub_rn(float a, float b) { return shim_kept(a - b); }
inline float __fmul_rn(float a, float b) { return shim_kept(a * b); }
inline float __fdiv_rn(float a, float b) { return shim_kept(a / b); }
inline float __fsqrt_rn(float a) { return shim_kept(sqrtf(a)); }
inline float __frcp_rn(float a) { return shim_kept(1.0f / a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

// Fast ones are as inexact as they are there (CUDA C++ Programming Guide, "Intrinsic Functions").
inline float __fdividef(float a, float b) { return fabsf(b) > 0x1p126f && fabsf(b) <= 0x1.fffffep127f ? 0.0f * a : a / b; }
inline float __expf(float x) { return exp2f(shim_kept(x * 1.44269504f)); }
inline float __exp2f(float x) { return exp2f(x); }
inline float __exp10f(float x) { return exp2f(shim_kept(x * 3.32192809f)); }
inline float __log2f(float x) { return log2f(x); }
inline float __logf(float x) { return shim_kept(log2f(x) * 0.69314718f); }
inline float __powf(float x, float y) { return exp2f(shim_kept(y * log2f(x))); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanhf(float x) { return tanhf(x); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline void sincospi(double x, double* sine, double* cosine) {
    *sine = sin(M_PI * x);
    *cosine = cos(M_PI * x);
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

// Conversions saturate, a NaN becomes 0 (PTX ISA, "cvt").
template <class Int>
inline Int shim_saturated(double x) {
    if (x != x) return 0;
    const double least = sizeof(Int) == 4 ? (static_cast<Int>(-1) < 0 ? -2147483648.0 : 0.0)
                                          : (static_cast<Int>(-1) < 0 ? -9223372036854775808.0 : 0.0);
    const double most = sizeof(Int) == 4 ? (static_cast<Int>(-1) < 0 ? 2147483647.0 : 4294967295.0)
                                         : (static_cast<Int>(-1) < 0 ? 9223372036854775807.0 : 18446744073709551615.0);
    if (x <= least) return static_cast<Int>(static_cast<Int>(-1) < 0 ? static_cast<Int>(1) << (8 * sizeof(Int) - 1) : 0);
    if (x >= most) return static_cast<Int>(-1) < 0 ? ~(static_cast<Int>(1) << (8 * sizeof(Int) - 1)) : static_cast<Int>(-1);
    return static_cast<Int>(x);
}
inline int __float2int_rn(float x) { return shim_saturated<int>(rintf(x)); }
inline int __float2int_rz(float x) { return shim_saturated<int>(truncf(x)); }
inline int __float2int_rd(float x) { return shim_saturated<int>(floorf(x)); }
inline int __float2int_ru(float x) { return shim_saturated<int>(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return shim_saturated<unsigned>(rintf(x)); }
inline unsigned __float2uint_rz(float x) { return shim_saturated<unsigned>(truncf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
    unsigned made = 0;
    for (int i = 0; i < 32; i++) made |= (x >> i & 1u) << (31 - i);
    return made;
}
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<long long>(a) * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return static_cast<unsigned>(((static_cast<uint64_t>(high) << 32 | low) << (by & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (by & 31));
}

// Byte i is the byte of (y, x) that nibble i of `selector` names; its bit 3 asks for the byte's sign eight times.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    uint64_t both = static_cast<uint64_t>(y) << 32 | x;
    unsigned made = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = selector >> 4 * i & 0xf, byte = both >> 8 * (nibble & 7) & 0xff;
        if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
        made |= byte << 8 * i;
    }
    return made;
}

// ---- four bytes at a time -----------------------------------------------------------------------------------------
template <class A, class B, class Sum>
inline Sum shim_dp4a(unsigned a, unsigned b, Sum c) {
    unsigned sum = static_cast<unsigned>(c);
    for (int i = 0; i < 4; i++)
        sum += static_cast<unsigned>(static_cast<A>(a >> 8 * i) * static_cast<B>(b >> 8 * i));
    return static_cast<Sum>(sum);
}
inline int __dp4a(int a, int b, int c) { return shim_dp4a<int8_t, int8_t>(a, b, c); }
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) { return shim_dp4a<uint8_t, uint8_t>(a, b, c); }
inline int __dp4a(char4 a, char4 b, int c) { return __dp4a(shim_bits<int>(a), shim_bits<int>(b), c); }
inline unsigned __dp4a(uchar4 a, uchar4 b, unsigned c) {
    return __dp4a(shim_bits<unsigned>(a), shim_bits<unsigned>(b), c);
}
// dp4a.u32.s32 and dp4a.s32.u32, which CUDA C++ has only as PTX.
inline int shim_dp4a_us(unsigned a, int b, int c) { return shim_dp4a<uint8_t, int8_t>(a, b, c); }
inline int shim_dp4a_su(int a, unsigned b, int c) { return shim_dp4a<int8_t, uint8_t>(a, b, c); }

template <class Each>
inline unsigned shim_bytes(unsigned a, unsigned b, Each each) {
    unsigned made = 0;
    for (int i = 0; i < 4; i++)
        made |= (static_cast<unsigned>(each(static_cast<uint8_t>(a >> 8 * i), static_cast<uint8_t>(b >> 8 * i))) & 0xff)
                << 8 * i;
    return made;
}
inline unsigned __vadd4(unsigned a, unsigned b) {
    return shim_bytes(a, b, [](uint8_t x, uint8_t y) { return x + y; });
}
inline unsigned __vsub4(unsigned a, unsigned b) {
    return shim_bytes(a, b, [](uint8_t x, uint8_t y) { return x - y; });
}
inline int shim_signed_byte(int x) { return x < -128 ? -128 : x > 127 ? 127 : x; }
inline unsigned __vaddss4(unsigned a, unsigned b) {
    return shim_bytes(a, b, [](uint8_t x, uint8_t y) {
        return shim_signed_byte(static_cast<int8_t>(x) + static_cast<int8_t>(y));
    });
}
inline unsigned __vsubss4(unsigned a, unsigned b) {
    return shim_bytes(a, b, [](uint8_t x, uint8_t y) {
        return shim_signed_byte(static_cast<int8_t>(x) - static_cast<int8_t>(y));
    });
}
inline unsigned __vcmpeq4(unsigned a, unsigned b) {
    return shim_bytes(a, b, [](uint8_t x, uint8_t y) { return x == y ? 0xff : 0; });
}
inline unsigned __vcmpne4(unsigned a, unsigned b) { return ~__vcmpeq4(a, b); }
