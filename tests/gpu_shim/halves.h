// f16 and bf16, rounded to nearest, ties to even, as the device does: every NaN becomes 0x7fff.
#pragma once

namespace shim {

inline float from_half(unsigned short bits) {
    unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, rest = bits & 1023u;
    if (exponent == 31) return shim_bits<float>(sign | 0x7f800000u | rest << 13);
    if (exponent) return shim_bits<float>(sign | (exponent + 112) << 23 | rest << 13);
    float small = static_cast<float>(rest) * 0x1p-24f;
    return sign ? -small : small;
}

inline unsigned short to_half(double x) {
    uint64_t bits = shim_bits<uint64_t>(x), size_bits = bits & ~(1ull << 63);
    unsigned sign = static_cast<unsigned>(bits >> 48) & 0x8000u;
    double size = shim_bits<double>(size_bits);
    if (size != size) return 0x7fff;
    if (size >= 65520.0) return static_cast<unsigned short>(sign | 0x7c00u);
    if (size < 0x1p-14) {  // a multiple of the least half; what is added leaves no room for a fraction
        volatile double whole = size * 0x1p24 + 0x1p52;
        return static_cast<unsigned short>(sign | static_cast<unsigned>(whole - 0x1p52));
    }
    size_bits += (1ull << 41) - 1 + (size_bits >> 42 & 1);  // of the fraction's 52 bits 10 are left
    return static_cast<unsigned short>(sign | (static_cast<unsigned>(size_bits >> 42) - ((1023 - 15) << 10)));
}

inline float from_bfloat(unsigned short bits) { return shim_bits<float>(static_cast<unsigned>(bits) << 16); }

inline unsigned short to_bfloat(float x) {
    unsigned bits = shim_bits<unsigned>(x);
    if (x != x) return 0x7fff;
    return static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

}  // namespace shim

struct __half_raw {
    unsigned short x;
};
struct __nv_bfloat16_raw {
    unsigned short x;
};

struct alignas(2) __half {
    unsigned short bits;
    __half() = default;
    __half(float x) : bits(shim::to_half(x)) {}
    __half(double x) : bits(shim::to_half(x)) {}
    __half(int x) : bits(shim::to_half(x)) {}
    __half(__half_raw x) : bits(x.x) {}
    operator float() const { return shim::from_half(bits); }
    operator __half_raw() const { return {bits}; }
};
struct alignas(2) __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float x) : bits(shim::to_bfloat(x)) {}
    __nv_bfloat16(__nv_bfloat16_raw x) : bits(x.x) {}
    operator float() const { return shim::from_bfloat(bits); }
    operator __nv_bfloat16_raw() const { return {bits}; }
};
struct alignas(4) __half2 {
    __half x, y;
    __half2() = default;
    __half2(__half a, __half b) : x(a), y(b) {}
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
    __nv_bfloat162() = default;
    __nv_bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) : x(a), y(b) {}
};
typedef __half half;
typedef __half2 half2;
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline __half __double2half(double x) { return __half(x); }
inline __half __int2half_rn(int x) { return __half(x); }
inline __half __short2half_rn(short x) { return __half(static_cast<int>(x)); }
inline __half __ushort2half_rn(unsigned short x) { return __half(static_cast<int>(x)); }
inline __half __ushort_as_half(unsigned short x) { return __half(__half_raw{x}); }
inline __half __short_as_half(short x) { return __half(__half_raw{static_cast<unsigned short>(x)}); }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline short __half_as_short(__half x) { return static_cast<short>(x.bits); }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float22half2_rn(float2 x) { return {__half(x.x), __half(x.y)}; }
inline float2 __half22float2(__half2 x) { return {x.x, x.y}; }
inline float __low2float(__half2 x) { return x.x; }
inline float __high2float(__half2 x) { return x.y; }
inline __half __low2half(__half2 x) { return x.x; }
inline __half __high2half(__half2 x) { return x.y; }

inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return __nv_bfloat16(__nv_bfloat16_raw{x}); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return {x, x}; }
inline __nv_bfloat162 __float2bfloat162_rn(float x) { return {__nv_bfloat16(x), __nv_bfloat16(x)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 x) { return {__nv_bfloat16(x.x), __nv_bfloat16(x.y)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 x) { return {x.x, x.y}; }
inline float __low2float(__nv_bfloat162 x) { return x.x; }
inline float __high2float(__nv_bfloat162 x) { return x.y; }

// Sums and products of two halves are exact in double, so that they are rounded once.
inline __half __hadd(__half a, __half b) { return __half(static_cast<double>(float(a)) + float(b)); }
inline __half __hsub(__half a, __half b) { return __half(static_cast<double>(float(a)) - float(b)); }
inline __half __hmul(__half a, __half b) { return __half(static_cast<double>(float(a)) * float(b)); }
inline __half __hdiv(__half a, __half b) { return __half(static_cast<double>(float(a)) / float(b)); }
inline __half __hfma(__half a, __half b, __half c) {
    return __half(static_cast<double>(float(a)) * float(b) + float(c));
}
inline __half operator+(__half a, __half b) { return __hadd(a, b); }
inline __half operator-(__half a, __half b) { return __hsub(a, b); }
inline __half operator*(__half a, __half b) { return __hmul(a, b); }
inline __half operator/(__half a, __half b) { return __hdiv(a, b); }
inline __half __hneg(__half a) { return __ushort_as_half(a.bits ^ 0x8000u); }
inline __half __habs(__half a) { return __ushort_as_half(a.bits & 0x7fffu); }
inline __half __hmax(__half a, __half b) { return __half(fmaxf(a, b)); }
inline __half __hmin(__half a, __half b) { return __half(fminf(a, b)); }
inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
inline __half2 __hmax2(__half2 a, __half2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }
inline __half2 __hmin2(__half2 a, __half2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }
inline __half2 __hneg2(__half2 a) { return {__hneg(a.x), __hneg(a.y)}; }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
inline bool __hisnan(__half x) { return (x.bits & 0x7fff) > 0x7c00; }
inline int __hisinf(__half x) { return x.bits == 0x7c00 ? 1 : x.bits == 0xfc00 ? -1 : 0; }
inline bool __hlt(__half a, __half b) { return float(a) < float(b); }
inline bool __hgt(__half a, __half b) { return float(a) > float(b); }
