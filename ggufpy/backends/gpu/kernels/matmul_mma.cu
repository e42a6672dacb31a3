// A product of many rows with a packed matrix on tensor cores; see mma_tile.cuh.
//
//     x         half rows, x_stride apart, whole tiles of them (to_half.cu)
//     x_scales  float by row: what the row was multiplied by
//     y         float rows, y_stride apart; columns to `end` are written, zeros behind the matrix's rows
//     sums      with SPLIT: [part][whole tiles of rows][padded] float, what parts of the columns add up to (join_sums.cu)
//
// Grid: (columns of y, rows, parts) in tiles; each part has steps_a_part steps.
#include "mma_tile.cuh"

// Two columns of a row of y, or of a part's sums.
__device__ __forceinline__ void finish(const Args& a, int row, int column, float first, float second) {
    if (SPLIT) {
        float* sums = a.sums + ((long long)blockIdx.z * gridDim.y * TM + row) * a.padded + column;
        *(float2*)sums = make_float2(first, second);
        return;
    }
    if (row >= a.rows) return;
    const float by = 1.0f / a.x_scales[row];
    float* y = a.y + (long long)row * a.y_stride + column;
    const float2 old = ADD ? *(const float2*)y : make_float2(0.0f, 0.0f);
    const float2 bias = a.bias != 0 ? *(const float2*)(a.bias + column) : make_float2(0.0f, 0.0f);
    if (column < a.end) y[0] = old.x + bias.x + first * by;
    if (column + 1 < a.end) y[1] = old.y + bias.y + second * by;
}

KERNEL(matmul_mma) {
    const int n0 = blockIdx.x * TN, m0 = blockIdx.y * TM;
    const int begin = blockIdx.z * a.steps_a_part, end = min(begin + a.steps_a_part, a.steps);
    const __half* x[X_ROWS];
#pragma unroll
    for (int i = 0; i < X_ROWS; i++) x[i] = (const __half*)a.x + (long long)(m0 + x_row() + 16 * i) * a.x_stride;
    Sums sums = {};
    multiply_tile(a, x, n0, a.w_rows - n0, begin, end, sums);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int row = m0 + row_of(i), column = n0 + column_of(j);
            if (column >= a.padded) continue;
            finish(a, row, column, sums[i][j][0], sums[i][j][1]);
            finish(a, row + 8, column, sums[i][j][2], sums[i][j][3]);
        }
}
