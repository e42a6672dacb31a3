// Bulk rows attend to the cache: a block has up to ROWS rows of a tile (of one text) and one query head, and goes
// through what they see, KEYS positions at a time, with products on tensor cores.
//
// grid (query heads x BLOCKS, tiles)
//
// SHARES warps have 16 rows together, each a share of the columns of y: where heads are long, one alone has too few
// registers. All of them make the scores; exchanging those would cost more barriers. A warp has of q the fragments of a (mma.cuh), of the scores those of d, which are, as powers, those of a for
// the product with the values. Keys are brought to f16 as rows of shared memory, values to its columns. q is brought to
// f16 after each row of it was divided by a power of two that leaves it within 2, which the scores, float32, are
// multiplied by again: no q is too large, and keys and values of bf16 beyond f16's 65504 are held there.
#include "attention.cuh"
#include "mma.cuh"

#define ROWS (THREADS / WARP / SHARES * 16)
#define BLOCKS (64 / ROWS)  // of a tile
#define KEY_DEPTH ((KEY_LENGTH + 15) / 16 * 16)
#define COLUMNS ((VALUE_LENGTH + 8 * SHARES - 1) / (8 * SHARES) * 8)  // of y, of a warp
#define VALUE_DEPTH (COLUMNS * SHARES)
#define KEY_STRIDE (KEY_DEPTH + 8)  // f16; 4 words more than a multiple of 8, so that a fragment is in 32 banks
#define VALUE_STRIDE (KEYS + 8)
#define AT_ONCE (SHARES > 1 ? 1 : 4)  // turns of loading that are unrolled: long heads leave no registers for more

typedef KvHead<KEY_TYPE, KEY_LENGTH> KeyHead;
typedef KvHead<VALUE_TYPE, VALUE_LENGTH> ValueHead;

// Two numbers as f16, the first below.
__device__ __forceinline__ unsigned halves(float x, float y) { return kv_half_bits(x) | (unsigned)kv_half_bits(y) << 16; }

// Eight dimensions of a position as f16, zeros behind its length.
template <typename HEAD, int TYPE, int LENGTH>
__device__ __forceinline__ uint4 load_halves(const char *page, int p, int at) {
    if (at >= LENGTH) return make_uint4(0, 0, 0, 0);
    if (TYPE == kv_f16 && LENGTH % 8 == 0) return *(const uint4 *)(HEAD::row(page, p) + 2 * at);
    float x[8];
    HEAD::load8(page, p, at, x);
    return make_uint4(halves(x[0], x[1]), halves(x[2], x[3]), halves(x[4], x[5]), halves(x[6], x[7]));
}

// Keys of the positions from p of a page on: rows of shared memory.
__device__ __forceinline__ void load_keys(const char *page, int p, unsigned short *to) {
    const int eights = KEY_DEPTH / 8;
#pragma unroll AT_ONCE
    for (int i = threadIdx.x; i < KEYS * eights; i += THREADS) {
        const int key = i / eights, at = i % eights * 8;
        *(uint4 *)(to + key * KEY_STRIDE + at) = load_halves<KeyHead, KEY_TYPE, KEY_LENGTH>(page, p + key, at);
    }
}

// Values likewise, as columns: of two positions at once, so that words are written.
__device__ __forceinline__ void load_values(const char *page, int p, unsigned short *to) {
#pragma unroll AT_ONCE
    for (int i = threadIdx.x; i < KEYS / 2 * (VALUE_DEPTH / 8); i += THREADS) {
        const int key = i % (KEYS / 2) * 2, at = i / (KEYS / 2) * 8;
        const uint4 x = load_halves<ValueHead, VALUE_TYPE, VALUE_LENGTH>(page, p + key, at);
        const uint4 y = load_halves<ValueHead, VALUE_TYPE, VALUE_LENGTH>(page, p + key + 1, at);
        const unsigned xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            unsigned *below = (unsigned *)(to + (at + 2 * j) * VALUE_STRIDE + key);
            below[0] = (xs[j] & 0xffffu) | ys[j] << 16;
            below[VALUE_STRIDE / 2] = xs[j] >> 16 | (ys[j] & 0xffff0000u);
        }
    }
}

// A row of q as the fragments of a have it, in rows `half` of them (0: the upper 8, 1: the lower); returns by what
// its scores are to be multiplied. Rows that are none are zeros.
__device__ __forceinline__ float load_queries(const float *q, bool is, int half, unsigned (&out)[KEY_DEPTH / 16][4]) {
    const int at = threadIdx.x % 4 * 2;
    float most = 0.0f;
#pragma unroll
    for (int j = 0; j < KEY_DEPTH / 8; j++) {
        const int d = 8 * j + at;
        if (is && d < KEY_LENGTH) most = fmaxf(most, fabsf(q[d]));
        if (is && d + 1 < KEY_LENGTH) most = fmaxf(most, fabsf(q[d + 1]));
    }
    most = fmaxf(most, __shfl_xor_sync(FULL, most, 1));
    most = fmaxf(most, __shfl_xor_sync(FULL, most, 2));
    // The power of two that is next below, within what has an inverse.
    const float unit = __uint_as_float(__float_as_uint(fminf(fmaxf(most, 1e-30f), 1e30f)) & 0x7f800000u);
    const float inverse = 1.0f / unit;
#pragma unroll
    for (int j = 0; j < KEY_DEPTH / 8; j++) {
        const int d = 8 * j + at;
        const float x = is && d < KEY_LENGTH ? q[d] * inverse : 0.0f;
        const float y = is && d + 1 < KEY_LENGTH ? q[d + 1] * inverse : 0.0f;
        if (half) out[j / 2][j % 2 * 2 + 1] = halves(x, y);
        else out[j / 2][j % 2 * 2] = halves(x, y);
    }
    return unit;
}

// A warp's rows on their way: of each lane, rows g and g + 8.
struct Rows {
    int2 seen[2];
    float factor[2];  // of scores
    float most[2];
    float sum[2];
    float y[COLUMNS / 8][4];
};

// s = the scores of 16 rows with KEYS keys in shared memory.
__device__ __forceinline__ void products(
    const unsigned (&q)[KEY_DEPTH / 16][4], const unsigned short *keys, float (&s)[KEYS / 8][4]) {
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) s[n][i] = 0.0f;
#pragma unroll
        for (int j = 0; j < KEY_DEPTH / 16; j++) {
            const unsigned short *from = keys + (8 * n + g) * KEY_STRIDE + 16 * j + 2 * t;
            const unsigned b[2] = {*(const unsigned *)from, *(const unsigned *)(from + 8)};
            mma_f16(s[n], q[j], b);
        }
    }
}

// Scores as powers of two, of what is seen of the positions from `at` on; what was summed up shrinks where they grow.
__device__ __forceinline__ void soften(Rows &rows, int at, float cap, float (&s)[KEYS / 8][4]) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float most = rows.most[r], sum = 0.0f;
#pragma unroll
        for (int i = 0; i < KEYS / 4; i++) {
            const int position = at + i / 2 * 8 + 2 * t + i % 2;
            float &x = s[i / 2][2 * r + i % 2];
            x = position >= rows.seen[r].x && position < rows.seen[r].y ? power(x * rows.factor[r], cap) : 2.0f * LOWEST;
            most = fmaxf(most, x);
        }
        most = fmaxf(most, __shfl_xor_sync(FULL, most, 1));
        most = fmaxf(most, __shfl_xor_sync(FULL, most, 2));
        const float shrunk = exp2f(rows.most[r] - most);
#pragma unroll
        for (int i = 0; i < KEYS / 4; i++) {
            float &x = s[i / 2][2 * r + i % 2];
            x = exp2f(x - most);
            sum += x;
        }
        rows.most[r] = most;
        rows.sum[r] = rows.sum[r] * shrunk + sum;  // of this lane's columns; lanes are added up at the end
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            rows.y[n][2 * r] *= shrunk;
            rows.y[n][2 * r + 1] *= shrunk;
        }
    }
}

// y += powers · this warp's columns of the values in shared memory
__device__ __forceinline__ void weigh(Rows &rows, const float (&s)[KEYS / 8][4], const unsigned short *values) {
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        const unsigned p[4] = {
            halves(s[2 * k][0], s[2 * k][1]), halves(s[2 * k][2], s[2 * k][3]),
            halves(s[2 * k + 1][0], s[2 * k + 1][1]), halves(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            const unsigned short *from = values + (8 * n + g) * VALUE_STRIDE + 16 * k + 2 * t;
            const unsigned b[2] = {*(const unsigned *)from, *(const unsigned *)(from + 8)};
            mma_f16(rows.y[n], p, b);
        }
    }
}

// Writes one of this lane's rows, its `r`th: of the `width` columns that are left from this warp's first on, its own.
__device__ __forceinline__ void write_row(Rows &rows, int r, float sink, float *y, int width) {
    const int at = threadIdx.x % 4 * 2;
    float sum = rows.sum[r];
    sum += __shfl_xor_sync(FULL, sum, 1);
    sum += __shfl_xor_sync(FULL, sum, 2);
    float shrunk = 1.0f;
#if SINKS
    const float most = fmaxf(rows.most[r], sink);
    shrunk = exp2f(rows.most[r] - most);
    sum = sum * shrunk + exp2f(sink - most);
#endif
    if (y == nullptr) return;
    const float share = sum > 0.0f ? shrunk / sum : 0.0f;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
        if (8 * n + at < width) y[8 * n + at] = rows.y[n][2 * r] * share;
        if (8 * n + at + 1 < width) y[8 * n + at + 1] = rows.y[n][2 * r + 1] * share;
    }
}

KERNEL(attend_tiles) {
    if ((int)blockIdx.y >= *a.tile_count) return;
    const int tile = *a.tile_count - 1 - blockIdx.y;  // of a text's tiles the last see most: they begin first
    const int above = blockIdx.x % BLOCKS * ROWS;  // rows of the tile that other blocks have
    const int first = a.tiles[2 * tile] + above, count = min(a.tiles[2 * tile + 1] - above, ROWS);
    if (count <= 0) return;
    const int query = blockIdx.x / BLOCKS, head = query / GROUP, warp = threadIdx.x / WARP;
    const int own = warp / SHARES * 16 + threadIdx.x % WARP / 4;  // of the block's rows the first of this lane
    const int column = warp % SHARES * COLUMNS;
    const int last = first + count - 1;
    const int lowest = visible(a.positions[first], a.ends[first], a.window).x / KEYS * KEYS;
    const int highest = visible(a.positions[last], a.ends[last], a.window).y;

    unsigned q[KEY_DEPTH / 16][4];
    Rows rows;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const bool is = own + 8 * r < count;
        const int row = is ? first + own + 8 * r : first;
        rows.seen[r] = is ? visible(a.positions[row], a.ends[row], a.window) : make_int2(0, 0);
        rows.factor[r] = a.scale * load_queries(a.q + (long long)row * a.q_stride + query * KEY_LENGTH, is, r, q);
        rows.most[r] = LOWEST;
        rows.sum[r] = 0.0f;
    }
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) rows.y[n][i] = 0.0f;
    }

    __shared__ uint4 key_memory[KEYS * KEY_STRIDE / 8], value_memory[VALUE_DEPTH * VALUE_STRIDE / 8];
    unsigned short *keys = (unsigned short *)key_memory, *values = (unsigned short *)value_memory;
    const int *table = a.pages + a.tables[first];
    for (int at = lowest; at < highest; at += KEYS) {
        const long long page = kv_page(table, at);
        __syncthreads();  // those of the last round have been read
        load_keys(a.keys + page * a.key_page + head * a.key_head, at % KV_PAGE, keys);
        load_values(a.values + page * a.value_page + head * a.value_head, at % KV_PAGE, values);
        __syncthreads();
        bool sees = false;  // any of the warp's rows any of this
#pragma unroll
        for (int r = 0; r < 2; r++) sees = sees || (rows.seen[r].x < at + KEYS && rows.seen[r].y > at);
        if (!__any_sync(FULL, sees)) continue;
        float s[KEYS / 8][4];
        products(q, keys, s);
        soften(rows, at, a.cap, s);
        weigh(rows, s, values + column * VALUE_STRIDE);
    }

    float sink = 0.0f;
#if SINKS
    sink = a.sinks[query] * LOG2E;
#endif
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = own + 8 * r;
        float *y = a.y + (long long)(first + row) * a.y_stride + query * VALUE_LENGTH + column;
        write_row(rows, r, sink, row < count ? y : nullptr, VALUE_LENGTH - column);
    }
    if (query == a.queries - 1) {  // columns behind the width
        for (int i = threadIdx.x; i < count * a.padding; i += THREADS) {
            a.y[(long long)(first + i / a.padding) * a.y_stride + a.queries * VALUE_LENGTH + i % a.padding] = 0.0f;
        }
    }
}
