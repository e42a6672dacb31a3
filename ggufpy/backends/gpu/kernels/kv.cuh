// A head's page of the key/value cache: 128 positions of LENGTH numbers, by type (kv.py draws the whole).
//
//     kv_f16, kv_bf16   rows [128][LENGTH] of 16 bits
//     kv_q8_0           codes [128][LENGTH] int8, then scales [128][LENGTH / 32] f16
//     kv_q4_0           codes [128][LENGTH / 2], of each 32 dimensions i below and i + 16 above; then scales as q8_0
//
// Rows are loaded with 16 bytes at once where LENGTH is a multiple of 8, which is nearly always.
// Numbers are clamped as they are written: what is stored is finite, so that weight 0 times it is 0.
#define KV_PAGE 128  // positions
#define KV_BLOCK 32  // dimensions that share a scale

enum KvType { kv_f16, kv_bf16, kv_q8_0, kv_q4_0 };

__device__ __forceinline__ float kv_half(unsigned bits) { return __half2float(__ushort_as_half((unsigned short)bits)); }

__device__ __forceinline__ unsigned short kv_half_bits(float x) {
    return __half_as_ushort(__float2half_rn(fmaxf(fminf(x, 65504.0f), -65504.0f)));
}

// To bf16 by rounding to even. No arithmetic of bf16, which levels below sm_80 have not.
__device__ __forceinline__ unsigned short kv_bfloat_bits(float x) {
    const unsigned bits = __float_as_uint(fmaxf(fminf(x, 3.38e38f), -3.38e38f));
    return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The page of a position, in a page table.
__device__ __forceinline__ int kv_page(const int *table, int position) { return table[position / KV_PAGE]; }

template <int TYPE, int LENGTH>
struct KvHead {
    static constexpr bool scaled = TYPE == kv_q8_0 || TYPE == kv_q4_0;
    static constexpr bool wide = LENGTH % 8 == 0;  // rows are loaded by 8 numbers
    static constexpr int blocks = LENGTH / KV_BLOCK;
    static constexpr int row_bytes = TYPE == kv_q4_0 ? LENGTH / 2 : TYPE == kv_q8_0 ? LENGTH : 2 * LENGTH;
    static constexpr int scales_at = KV_PAGE * row_bytes;
    static constexpr int bytes = scales_at + (scaled ? KV_PAGE * blocks * 2 : 0);
    static_assert(!scaled || LENGTH % KV_BLOCK == 0, "types with scales take whole blocks");

    // Where a position's numbers or codes are; `p` counts within the page.
    __device__ __forceinline__ static char *row(char *page, int p) { return page + p * row_bytes; }
    __device__ __forceinline__ static const char *row(const char *page, int p) { return page + p * row_bytes; }
    // Where its scales are.
    __device__ __forceinline__ static unsigned short *scales(char *page, int p) {
        return (unsigned short *)(page + scales_at) + p * blocks;
    }
    __device__ __forceinline__ static const unsigned short *scales(const char *page, int p) {
        return (const unsigned short *)(page + scales_at) + p * blocks;
    }

    // out[0..8) = dimensions at.. at + 8 of a position, zeros behind LENGTH; `at` is a multiple of 8.
    __device__ __forceinline__ static void load8(const char *page, int p, int at, float *out) {
        const char *from = row(page, p);
        if (TYPE == kv_q8_0) {
            const float scale = kv_half(scales(page, p)[at / KV_BLOCK]);
            const int2 raw = *(const int2 *)(from + at);
            codes4(raw.x, scale, out);
            codes4(raw.y, scale, out + 4);
        } else if (TYPE == kv_q4_0) {
            const float scale = kv_half(scales(page, p)[at / KV_BLOCK]);
            const uint2 raw = *(const uint2 *)(from + at / KV_BLOCK * 16 + at % 16);
            const int shift = at % KV_BLOCK < 16 ? 0 : 4;
            nibbles4(raw.x >> shift, scale, out);
            nibbles4(raw.y >> shift, scale, out + 4);
        } else if (wide) {
            const uint4 raw = *(const uint4 *)(from + 2 * at);
            pair(raw.x, out);
            pair(raw.y, out + 2);
            pair(raw.z, out + 4);
            pair(raw.w, out + 6);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) out[i] = at + i < LENGTH ? one(((const unsigned short *)from)[at + i]) : 0.0f;
        }
    }

    // Writes a position's LENGTH numbers, of `x` in memory that a whole warp sees; called by all of it.
    __device__ __forceinline__ static void store(char *page, int p, const float *x) {
        const int lane = threadIdx.x % WARP;
        if (!scaled && LENGTH % 2 == 0) {
            unsigned *to = (unsigned *)row(page, p);
            for (int i = lane; i < LENGTH / 2; i += WARP) to[i] = bits(x[2 * i]) | bits(x[2 * i + 1]) << 16;
        } else if (!scaled) {
            unsigned short *to = (unsigned short *)row(page, p);
            for (int d = lane; d < LENGTH; d += WARP) to[d] = (unsigned short)bits(x[d]);
        } else {
            for (int b = 0; b < blocks; b++) store_block(row(page, p), scales(page, p) + b, b, x[KV_BLOCK * b + lane]);
        }
    }

private:
    __device__ __forceinline__ static float one(unsigned bits) {
        return TYPE == kv_bf16 ? __uint_as_float(bits << 16) : kv_half(bits);
    }

    __device__ __forceinline__ static unsigned bits(float x) {
        return TYPE == kv_bf16 ? kv_bfloat_bits(x) : kv_half_bits(x);
    }

    __device__ __forceinline__ static void pair(unsigned both, float *out) {
        out[0] = one(both & 0xffffu);
        out[1] = one(both >> 16);
    }

    // The four signed bytes of a word, the lowest first.
    __device__ __forceinline__ static void codes4(int word, float scale, float *out) {
#pragma unroll
        for (int i = 0; i < 4; i++) out[i] = scale * (float)(signed char)(word >> (8 * i));
    }

    // The lower half of each byte of a word.
    __device__ __forceinline__ static void nibbles4(unsigned word, float scale, float *out) {
#pragma unroll
        for (int i = 0; i < 4; i++) out[i] = scale * (float)((int)((word >> (8 * i)) & 15u) - 8);
    }

    // A block of 32 numbers, one a thread of the warp, with ggml's rounding (quantize_row_q8_0_ref, _q4_0_ref): every
    // step is a float's, none contracted. Of numbers as large as the largest, the first has the scale's sign.
    __device__ __forceinline__ static void store_block(char *to, unsigned short *scale, int b, float x) {
        const int lane = threadIdx.x % WARP;
        x = fmaxf(fminf(x, 1e30f), -1e30f);
        const float most = warp_max(fabsf(x));
        float d = __fdiv_rn(most, 127.0f);
        if (TYPE == kv_q4_0) {
            const unsigned largest = __ballot_sync(FULL, fabsf(x) == most);
            d = __fdiv_rn(__shfl_sync(FULL, x, __ffs((int)largest) - 1), -8.0f);
        }
        if (lane == 0) *scale = kv_half_bits(d);
        const float scaled_x = __fmul_rn(x, d != 0.0f ? __fdiv_rn(1.0f, d) : 0.0f);
        if (TYPE == kv_q8_0) {  // fminf and fmaxf: 1 / d is infinite where d is next to nothing
            const float rounded = fmaxf(fminf(roundf(scaled_x), 127.0f), -127.0f);
            ((signed char *)to)[KV_BLOCK * b + lane] = (signed char)(int)rounded;
        } else {
            const int code = (int)fmaxf(fminf(__fadd_rn(scaled_x, 8.5f), 15.0f), 0.0f);
            const int high = __shfl_down_sync(FULL, code, 16);
            if (lane < 16) ((unsigned char *)to)[16 * b + lane] = (unsigned char)(code | high << 4);
        }
    }
};
