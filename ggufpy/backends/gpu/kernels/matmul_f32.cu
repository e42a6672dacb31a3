// A product of many rows with a matrix of floats, in float throughout: who keeps a matrix in f32 wants it exact.
//
//     x     float rows, x_stride apart
//     w     float rows of the matrix, w_stride apart; `columns` of both are multiplied
//     bias  float by row of the matrix, or 0
//     y     float rows, y_stride apart; columns to `end` are written, zeros behind the matrix's rows
//
// A block of threads makes TM rows of y by TN of its columns, a thread 4 by 4 of them. In shared memory k comes first, so
// that a thread reads its four values at once. Grid: (columns of y, rows) in tiles.
#include "elementwise.cuh"

#define TM 64
#define TN 64
#define TK 16

// Four values of k of one row (zeros where there is none), turned so that k comes first.
__device__ __forceinline__ void bring(
    float (*to)[TM + 4], const float* from, int stride, int row, int rows, int columns, int k0
) {
    const int r = threadIdx.x / 4, k = threadIdx.x % 4 * 4;
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (row + r < rows && k0 + k < columns)
        v = within(get_quad(from + (long long)(row + r) * stride + k0 + k), k0 + k, columns);
    to[k][r] = v.x;
    to[k + 1][r] = v.y;
    to[k + 2][r] = v.z;
    to[k + 3][r] = v.w;
}

KERNEL(matmul_f32) {
    __align__(16) __shared__ float xs[TK][TM + 4];
    __align__(16) __shared__ float ws[TK][TN + 4];
    const int n0 = blockIdx.x * TN, m0 = blockIdx.y * TM, n = threadIdx.x % 16 * 4, m = threadIdx.x / 16 * 4;
    float sums[4][4] = {};
    for (int k0 = 0; k0 < a.columns; k0 += TK) {
        bring(xs, a.x, a.x_stride, m0, a.rows, a.columns, k0);
        bring(ws, a.w, a.w_stride, n0, a.w_rows, a.columns, k0);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < TK; k++) {
            const float4 u = *(const float4*)&xs[k][m], v = *(const float4*)&ws[k][n];
            const float x[4] = {u.x, u.y, u.z, u.w}, w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] += x[i] * w[j];
        }
        __syncthreads();
    }
    const int c = n0 + n;
    if (c >= a.end) return;
    const float4 bias = a.bias != 0 ? get_quad(a.bias + c) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (m0 + m + i >= a.rows) break;
        float* y = a.y + (long long)(m0 + m + i) * a.y_stride;
        float4 v = ADD ? get_quad(y + c) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        v.x += sums[i][0] + bias.x;
        v.y += sums[i][1] + bias.y;
        v.z += sums[i][2] + bias.z;
        v.w += sums[i][3] + bias.w;
        put_quad(y, c, v, a.end);
    }
}
