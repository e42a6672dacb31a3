// f(x) of a gate, by KIND.
//
// "silu", "gelu" and "clamped" are x / (1 + e^-t): t is x, 1.702 x of an x that is 7 at most, or twice what the tanh of
// "gelu" is taken of, for x/2 · (1 + tanh u) = x / (1 + e^-2u).
#define SILU 0
#define GELU 1
#define GELU_ERF 2
#define RELU 3
#define RELU2 4
#define CLAMPED 5

#define TWICE 1.5957691216057308f  // 2 √(2/π)
#define CUBIC 0.0713548162726009f  // the same times 0.044715
#define SLOPE 1.702f
#define LIMIT 7.0f

__device__ __forceinline__ float activation(float x) {
    if (KIND == SILU) return x / (1.0f + expf(-x));
    if (KIND == GELU) return x / (1.0f + expf(-x * fmaf(x * x, CUBIC, TWICE)));
    if (KIND == GELU_ERF) return 0.5f * x * erfcf(-0.70710678118654752f * x);  // 1 + erf z = erfc -z
    if (KIND == CLAMPED) {
        x = fminf(x, LIMIT);
        return x / (1.0f + expf(-SLOPE * x));
    }
    x = fmaxf(x, 0.0f);
    return KIND == RELU2 ? x * x : x;
}

// By what f(gate) is multiplied.
__device__ __forceinline__ float factor_of(float up) {
    return KIND == CLAMPED ? fminf(fmaxf(up, -LIMIT), LIMIT) + 1.0f : up;
}
