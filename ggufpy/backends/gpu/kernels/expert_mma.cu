// Products of many rows with the matrices of experts that they chose, on tensor cores (mma_tile.cuh): a tile has rows that
// chose the same expert (expert_lists.cu).
//
//     x         half rows, x_stride apart; with `own` a part of `columns` for each chosen expert
//     x_scales  float by row: what the row was multiplied by (to_half.cu)
//     bias      [expert][bias_stride] float, zeros behind the rows, or 0
//     y         float rows, y_stride apart, of `count` parts of `rows` columns each; with PAIRS a row of y for each pair
//               (row * count + place), from which expert_join.cu makes sums by shares. Zeros up to `end` behind a part
//
// Grid: (columns of a part, tiles at most).
#include "mma_tile.cuh"

// Two columns of what one pair gets.
__device__ __forceinline__ void finish(
    const Args& a, int pair, const float* bias, int column, float first, float second
) {
    const int row = pair / a.count;
    const float by = 1.0f / a.x_scales[row];
    float* y = PAIRS ? a.y + (long long)pair * a.y_stride
                     : a.y + (long long)row * a.y_stride + (long long)(pair % a.count) * a.rows;
    if (column < a.end) y[column] = fmaf(first, by, bias != 0 ? bias[column] : 0.0f);
    if (column + 1 < a.end) y[column + 1] = fmaf(second, by, bias != 0 ? bias[column + 1] : 0.0f);
}

KERNEL(expert_mma) {
    if ((int)blockIdx.y >= *a.tile_count) return;  // the whole block
    const int* tile = a.tiles + 3 * blockIdx.y;
    const int expert = tile[0], count = tile[2], n0 = blockIdx.x * TN;
    const int* pairs = a.pairs + tile[1];
    const __half* x[X_ROWS];
#pragma unroll
    for (int i = 0; i < X_ROWS; i++) {  // rows that are not there are the last, whose sums nobody asks for
        const int pair = pairs[min(x_row() + 16 * i, count - 1)];
        x[i] = (const __half*)a.x + (long long)(pair / a.count) * a.x_stride + (a.own ? pair % a.count * a.columns : 0);
    }
    Sums sums = {};
    multiply_tile(a, x, expert * a.rows + n0, a.rows - n0, 0, a.steps, sums);
    const float* bias = a.bias != 0 ? a.bias + (long long)expert * a.bias_stride : 0;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int row = row_of(i), column = n0 + column_of(j);
            if (row < count) finish(a, pairs[row], bias, column, sums[i][j][0], sums[i][j][1]);
            if (row + 8 < count) finish(a, pairs[row + 8], bias, column, sums[i][j][2], sums[i][j][3]);
        }
}
