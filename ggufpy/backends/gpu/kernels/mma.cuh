// Products of small matrices on tensor cores, by a warp together: f16 in, sums in float.
//
// Who holds what of m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"), g = lane / 4, t = lane % 4, two values a
// register, of ascending k or column:
//     a (16 x 16)  a[0] row g, k 2t   a[1] row g + 8, k 2t   a[2] row g, k 2t + 8   a[3] row g + 8, k 2t + 8
//     b (16 x 8)   b[0] k 2t, column g   b[1] k 2t + 8, column g
//     d (16 x 8)   d[0], d[1] row g, columns 2t, 2t + 1   d[2], d[3] row g + 8
#include "common.cuh"

// d += a b
__device__ __forceinline__ void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
#ifdef GGUFPY_SHIM
    shim_mma_m16n8k16_f16(d, a, b);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
#else  // both halves of k, one after the other
#ifdef GGUFPY_SHIM
    shim_mma_m16n8k8_f16(d, a, b);
    shim_mma_m16n8k8_f16(d, a + 2, b + 1);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%7,%8}, {%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(a[2]), "r"(a[3]), "r"(b[1]));
#endif
#endif
}

// Four 8 x 8 matrices of f16 from shared memory: lanes 8 i .. 8 i + 7 say where the rows of matrix i are, 16 bytes each.
// r[i] is the part of matrix i that a or b have of it, where its rows are those of a, or the columns of b.
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const void* row) {
#ifdef GGUFPY_SHIM
    shim_ldmatrix_x4(r, row);
#else
    const unsigned at = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#endif
}
