// Moves keys and values of one layer from positions first .. last to those `drop` below, and turns the keys back.
//
//     angles           [ROTATED / 2] (cosine, sine) of turning by -drop
//     source, target   page tables: int32 pages by number of page, to read and to write
//     keys, values     as store_kv.cu has them
//
// Both tables may name the same pages, and what is written then lies at or below what is read. A block has one head's
// keys (y 0) or values (y 1) for itself and goes through the positions in order, a warp a position: a piece is read as
// a whole before any of it is written, and what comes after it lies above. It is bound by latency and run once where a
// context is full. Keys go through floats in shared memory; what is not turned is copied as it is.
#include "common.cuh"
#include "rotate.cuh"
#include "kv.cuh"

#define AT_ONCE (THREADS / WARP)
#define WIDEST (KEY_LENGTH > VALUE_LENGTH ? KEY_LENGTH : VALUE_LENGTH)

// A position's codes and scales as they are, to or from shared memory.
template <class Head>
__device__ __forceinline__ void copy_row(char *page, int p, unsigned short *kept, bool write) {
    const int lane = threadIdx.x % WARP, codes = Head::row_bytes / 2, scales = Head::scaled ? Head::blocks : 0;
    for (int i = lane; i < codes + scales; i += WARP) {
        unsigned short *there = i < codes ? (unsigned short *)Head::row(page, p) + i : Head::scales(page, p) + i - codes;
        if (write) *there = kept[i];
        else kept[i] = *there;
    }
}

KERNEL(shift_keys) {
    typedef KvHead<KEY_TYPE, KEY_LENGTH> Keys;
    typedef KvHead<VALUE_TYPE, VALUE_LENGTH> Values;
    __shared__ float rows[AT_ONCE][WIDEST];
    float *x = rows[threadIdx.x / WARP];
    unsigned short *kept = (unsigned short *)x;
    const int lane = threadIdx.x % WARP;
    const bool is_key = blockIdx.y == 0;
    const long long pitch = is_key ? a.key_page : a.value_page;
    char *base = is_key ? a.keys + (long long)blockIdx.x * a.key_head : a.values + (long long)blockIdx.x * a.value_head;
    for (int first = a.first; first < a.last; first += AT_ONCE) {
        const int from = first + threadIdx.x / WARP, to = from - a.drop;
        if (from < a.last) {
            char *page = base + kv_page(a.source, from) * pitch;
            if (is_key && ROTATED) {
                for (int at = 8 * lane; at < KEY_LENGTH; at += 8 * WARP) {
                    float some[8];
                    Keys::load8(page, from % KV_PAGE, at, some);
#pragma unroll
                    for (int i = 0; i < 8; i++) {
                        if (KEY_LENGTH % 8 == 0 || at + i < KEY_LENGTH) x[at + i] = some[i];
                    }
                }
                __syncwarp(FULL);
                for (int i = lane; i < PAIRS; i += WARP) turn(x, x, a.angles, i);
            } else if (is_key) {
                copy_row<Keys>(page, from % KV_PAGE, kept, false);
            } else {
                copy_row<Values>(page, from % KV_PAGE, kept, false);
            }
        }
        __syncthreads();
        if (from < a.last) {
            char *page = base + kv_page(a.target, to) * pitch;
            if (is_key && ROTATED) {
                Keys::store(page, to % KV_PAGE, x);
            } else if (is_key) {
                copy_row<Keys>(page, to % KV_PAGE, kept, true);
            } else {
                copy_row<Values>(page, to % KV_PAGE, kept, true);
            }
            __syncwarp(FULL);
        }
    }
}
