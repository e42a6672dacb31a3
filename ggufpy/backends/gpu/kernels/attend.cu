// Exact rows attend to the cache: a block reads keys and values of one head, for HEADS query heads that share them, in
// the units of positions that are dealt to its split. attend_join.cu adds the splits up.
//
// grid (kv heads x CHUNKS, splits, rows), where the GROUP query heads of a kv head are taken in CHUNKS of HEADS
//
// LANES lanes share a position: each has KEY_PARTS times 8 dimensions of its key and of all q, and VALUE_PARTS times 8
// of its value. So the lanes that have summed up a position's score are those that weigh its value by it, and each
// such set of lanes is a softmax of its own. Sets, warps and splits are joined in fixed order: what a row gets depends
// on its own positions alone.
#include "attention.cuh"

#define WARPS (THREADS / WARP)
#define SETS (WARP / LANES)
#define BATCH 4  // positions of a set whose scores are found together
#define EARLY (HEADS * (KEY_PARTS + VALUE_PARTS) <= 8)  // values are loaded while scores are made: registers are left
#define KEY_PARTS ((KEY_LENGTH + 8 * LANES - 1) / (8 * LANES))
#define VALUE_PARTS ((VALUE_LENGTH + 8 * LANES - 1) / (8 * LANES))

typedef KvHead<KEY_TYPE, KEY_LENGTH> Keys;
typedef KvHead<VALUE_TYPE, VALUE_LENGTH> Values;

// A softmax on its way, for HEADS query heads: the largest score, the sum of powers, and this lane's part of the values.
struct State {
    float most[HEADS];
    float sum[HEADS];
    float y[HEADS][VALUE_PARTS][8];
};

// The dimension at which part `c` of this lane begins.
__device__ __forceinline__ int part_at(int c) { return 8 * (threadIdx.x % LANES + LANES * c); }

// Of a position's key or value (of HEAD's page), this lane's part `c`; zeros behind its length.
template <typename HEAD, int LENGTH>
__device__ __forceinline__ void load_part(const char *page, int p, int c, float (&out)[8]) {
    if (LENGTH % (8 * LANES) == 0 || part_at(c) < LENGTH) {
        HEAD::load8(page, p, part_at(c), out);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = 0.0f;
    }
}

// This lane's parts of q · key for this set's positions p + SETS b.
__device__ __forceinline__ void products(
    const char *page, int p, const float (&q)[HEADS][KEY_PARTS][8], float (&s)[BATCH][HEADS]) {
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
#pragma unroll
        for (int h = 0; h < HEADS; h++) s[b][h] = 0.0f;
#pragma unroll
        for (int c = 0; c < KEY_PARTS; c++) {
            float key[8];
            load_part<Keys, KEY_LENGTH>(page, p + SETS * b, c, key);
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
#pragma unroll
                for (int i = 0; i < 8; i++) s[b][h] += q[h][c][i] * key[i];
            }
        }
    }
}

// The scores of these positions, the same in all lanes of the set.
__device__ __forceinline__ void scores(int at, int2 seen, float cap, float (&s)[BATCH][HEADS]) {
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
        const bool sees = at + SETS * b >= seen.x && at + SETS * b < seen.y;
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
#pragma unroll
            for (int i = LANES / 2; i > 0; i /= 2) s[b][h] += __shfl_xor_sync(FULL, s[b][h], i);
            s[b][h] = sees ? power(s[b][h], cap) : 2.0f * LOWEST;
        }
    }
}

// This lane's parts of the values of these positions.
__device__ __forceinline__ void load_values(const char *page, int p, float (&out)[BATCH][VALUE_PARTS][8]) {
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
#pragma unroll
        for (int c = 0; c < VALUE_PARTS; c++) load_part<Values, VALUE_LENGTH>(page, p + SETS * b, c, out[b][c]);
    }
}

// Scores become powers of two, below the largest; what was summed up shrinks where they grow.
__device__ __forceinline__ void soften(float (&s)[BATCH][HEADS], State &state) {
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float most = state.most[h];
#pragma unroll
        for (int b = 0; b < BATCH; b++) most = fmaxf(most, s[b][h]);
        if (most > state.most[h]) {
            const float shrunk = exp2f(state.most[h] - most);
            state.most[h] = most;
            state.sum[h] *= shrunk;
#pragma unroll
            for (int c = 0; c < VALUE_PARTS; c++) {
#pragma unroll
                for (int i = 0; i < 8; i++) state.y[h][c][i] *= shrunk;
            }
        }
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            s[b][h] = exp2f(s[b][h] - state.most[h]);
            state.sum[h] += s[b][h];
        }
    }
}

// y += powers · values
__device__ __forceinline__ void weigh(
    const float (&s)[BATCH][HEADS], const float (&values)[BATCH][VALUE_PARTS][8], State &state) {
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
#pragma unroll
        for (int c = 0; c < VALUE_PARTS; c++) {
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
#pragma unroll
                for (int i = 0; i < 8; i++) state.y[h][c][i] += s[b][h] * values[b][c][i];
            }
        }
    }
}

// Joins the softmaxes of a warp's sets; every lane has what it made of all of them.
__device__ __forceinline__ void join_sets(State &state) {
#pragma unroll
    for (int away = LANES; away < WARP; away *= 2) {
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            const float other = __shfl_xor_sync(FULL, state.most[h], away);
            const float most = fmaxf(state.most[h], other);
            const float mine = exp2f(state.most[h] - most), theirs = exp2f(other - most);
            state.most[h] = most;
            state.sum[h] = state.sum[h] * mine + __shfl_xor_sync(FULL, state.sum[h], away) * theirs;
#pragma unroll
            for (int c = 0; c < VALUE_PARTS; c++) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    const float y = __shfl_xor_sync(FULL, state.y[h][c][i], away);
                    state.y[h][c][i] = state.y[h][c][i] * mine + y * theirs;
                }
            }
        }
    }
}

KERNEL(attend) {
    const int row = a.row + blockIdx.z, split = blockIdx.y, head = blockIdx.x / CHUNKS;
    const int from = blockIdx.x % CHUNKS * HEADS, heads = min(HEADS, GROUP - from);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, set = lane / LANES;
    const int query = head * GROUP + from;  // the first of these heads
    const int2 seen = visible(a.positions[row], a.ends[row], a.window);
    if (first_unit(seen.x / UNIT, split, a.splits) * UNIT >= seen.y) return;

    float q[HEADS][KEY_PARTS][8];
    State state;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        const float *own = a.q + (long long)row * a.q_stride + (query + min(h, heads - 1)) * KEY_LENGTH;
        state.most[h] = LOWEST;
        state.sum[h] = 0.0f;
#pragma unroll
        for (int c = 0; c < KEY_PARTS; c++) {
#pragma unroll
            for (int i = 0; i < 8; i++) q[h][c][i] = part_at(c) + i < KEY_LENGTH ? own[part_at(c) + i] * a.scale : 0.0f;
        }
#pragma unroll
        for (int c = 0; c < VALUE_PARTS; c++) {
#pragma unroll
            for (int i = 0; i < 8; i++) state.y[h][c][i] = 0.0f;
        }
    }

    const int *table = a.pages + a.tables[row];
    const int step = a.splits * WARPS;
    for (int unit = first_unit(seen.x / UNIT, split + a.splits * warp, step); unit * UNIT < seen.y; unit += step) {
        const long long number = kv_page(table, unit * UNIT);
        const char *keys = a.keys + number * a.key_page + head * a.key_head;
        const char *values = a.values + number * a.value_page + head * a.value_head;
#pragma unroll 1
        for (int i = 0; i < UNIT; i += SETS * BATCH) {
            const int at = unit * UNIT + i + set;  // the whole unit is in its page: what is not seen counts nothing
            float s[BATCH][HEADS], v[BATCH][VALUE_PARTS][8];
            products(keys, at % KV_PAGE, q, s);
            if (EARLY) load_values(values, at % KV_PAGE, v);
            scores(at, seen, a.cap, s);
            soften(s, state);
            if (!EARLY) load_values(values, at % KV_PAGE, v);
            weigh(s, v, state);
        }
    }
    join_sets(state);

    __shared__ float shared_y[WARPS][HEADS][VALUE_LENGTH];
    __shared__ float2 shared_sums[WARPS][HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (lane == 0) shared_sums[warp][h] = make_float2(state.most[h], state.sum[h]);
#pragma unroll
        for (int c = 0; c < VALUE_PARTS; c++) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                if (set == 0 && part_at(c) + i < VALUE_LENGTH) shared_y[warp][h][part_at(c) + i] = state.y[h][c][i];
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < heads * VALUE_LENGTH; i += THREADS) {
        const int h = i / VALUE_LENGTH, d = i % VALUE_LENGTH;
        float most = LOWEST, sum = 0.0f, y = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) most = fmaxf(most, shared_sums[w][h].x);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float weight = exp2f(shared_sums[w][h].x - most);
            sum += weight * shared_sums[w][h].y;
            y += weight * shared_y[w][h][d];
        }
        const long long part = ((long long)blockIdx.z * a.queries + query + h) * a.splits + split;
        a.parts[part * VALUE_LENGTH + d] = y;
        if (d == 0) a.sums[part] = make_float2(most, sum);
    }
}
