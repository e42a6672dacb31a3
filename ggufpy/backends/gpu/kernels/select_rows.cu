// Row i of y is row sources[i] of x, whole blocks of columns.
#include "elementwise.cuh"

KERNEL(select_rows) {
    const int c = first_column();
    if (c >= a.end) return;
    put_quad(a.y + blockIdx.y * a.y_stride, c, get_quad(a.x + a.sources[blockIdx.y] * a.x_stride + c), a.end);
}
