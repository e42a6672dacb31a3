// Turns heads of rows in place.
//
//     x        [row][head][LENGTH] f32, rows `stride` floats apart
//     angles   [row][PAIRS] (cosine, sine)
//
// A thread a pair: block (row, piece of its pairs).
#include "common.cuh"
#include "rotate.cuh"

KERNEL(rotate) {
    const int i = blockIdx.y * THREADS + threadIdx.x;
    if (i >= a.heads * PAIRS) return;
    const long long row = blockIdx.x;
    float *head = a.x + row * a.stride + i / PAIRS * LENGTH;
    turn(head, head, a.angles + row * ROTATED, i % PAIRS);
}
