// Stores keys and values of rows in their pages; keys, and queries beside them, are turned in place first.
//
//     q, k       [row][head][KEY_LENGTH] f32, v [row][head][VALUE_LENGTH]; rows are `_stride` floats apart
//     angles     [row][ROTATED / 2] (cosine, sine); ROTATED 0: keys are stored as they are
//     tables     [row] where its page table begins in `pages`
//     keys, values   [page][head] pages of a head (kv.cuh), `_page` bytes and `_head` bytes apart
//
// A row at a position below 0 goes nowhere. A warp has a head of a row: those of q, then of k, then of v. A head of k
// lies in shared memory between being turned and being stored, as pairs and blocks have other threads.
#include "common.cuh"
#include "rotate.cuh"
#include "kv.cuh"

KERNEL(store_kv) {
    __shared__ float turned[THREADS / WARP][KEY_LENGTH];
    const long long row = blockIdx.x;
    const int unit = blockIdx.y * (THREADS / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int position = a.positions[row], table = a.tables[row];  // asked for at once
    if (unit >= a.queries + 2 * a.shared || position < 0) return;
    const float *angles = a.angles + row * ROTATED;
    if (unit < a.queries) {
        float *head = a.q + row * a.q_stride + unit * KEY_LENGTH;
        for (int i = lane; i < PAIRS; i += WARP) turn(head, head, angles, i);
        return;
    }
    const long long page = kv_page(a.pages + table, position);
    const int p = position % KV_PAGE, head = (unit - a.queries) % a.shared;
    if (unit < a.queries + a.shared) {
        float *k = a.k + row * a.k_stride + head * KEY_LENGTH, *x = turned[threadIdx.x / WARP];
        for (int i = lane; i < PAIRS; i += WARP) {
            turn(k, x, angles, i);
            k[first_of(i)] = x[first_of(i)];
            k[second_of(i)] = x[second_of(i)];
        }
        for (int d = ROTATED + lane; d < KEY_LENGTH; d += WARP) x[d] = k[d];
        __syncwarp(FULL);
        KvHead<KEY_TYPE, KEY_LENGTH>::store(a.keys + page * a.key_page + (long long)head * a.key_head, p, x);
    } else {
        const float *v = a.v + row * a.v_stride + head * VALUE_LENGTH;
        KvHead<VALUE_TYPE, VALUE_LENGTH>::store(a.values + page * a.value_page + (long long)head * a.value_head, p, v);
    }
}
