// Cosine and sine by which each pair of a step's rows is turned, times the rope's magnitude.
//
//     out         [rows][PAIRS] (cosine, sine) f32
//     positions   [rows] int32; where it is null, all rows turn by `distance`
//
// TURNS are PAIRS doubles: how often a pair turns for a position. The whole turns are taken off in double, so that a
// pair at position 1,000,000 is as exact as at position 1, and sincospi has no slow path for large angles. A thread a
// pair: some hundred operations in double, once a step.
#include "common.cuh"

__device__ const double turns[PAIRS] = {TURNS};

KERNEL(angles) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= a.rows * PAIRS) return;
    const int position = a.positions ? a.positions[i / PAIRS] : a.distance;
    double part = position * turns[i % PAIRS];
    part -= rint(part);
    double sine, cosine;
    sincospi(2.0 * part, &sine, &cosine);
    a.out[2 * i] = a.magnitude * (float)cosine;
    a.out[2 * i + 1] = a.magnitude * (float)sine;
}
