// Tensor cores: fragments are laid out over the lanes of a warp as the PTX ISA says ("Matrix fragments for mma.m16n8k16"
// and its neighbours, "ldmatrix").
#pragma once

namespace shim {

struct Fragments {  // of a lane
    const unsigned *a, *b;
    void* d;
};

// d (16, 8) += a (16, K) b (K, 8), of which a 32-bit register holds PACK neighbours along k.
template <class Sum, int K, int PACK, class Get>
void multiply(const Exchange* const* lanes, Get get) {
    typedef Sum Row __attribute__((vector_size(8 * sizeof(Sum))));
    Sum a[16][K];
    Row b[K], made[16];
    for (int lane = 0; lane < 32; lane++) {
        const Fragments* mine = static_cast<const Fragments*>(lanes[lane]->in);
        int group = lane / 4, place = lane % 4 * PACK;
        for (int half = 0; half < K / (4 * PACK); half++)
            for (int i = 0; i < PACK; i++) {
                int k = half * 4 * PACK + place + i;
                a[group][k] = get(mine->a[2 * half], i);
                a[group + 8][k] = get(mine->a[2 * half + 1], i);
                b[k][group] = get(mine->b[half], i);
            }
    }
    for (int lane = 0; lane < 32; lane++) {
        const Sum* d = static_cast<const Sum*>(static_cast<const Fragments*>(lanes[lane]->in)->d);
        for (int i = 0; i < 4; i++) made[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = d[i];
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < K; k++) made[row] += a[row][k] * b[k];
    for (int lane = 0; lane < 32; lane++) {
        Sum* d = static_cast<Sum*>(static_cast<const Fragments*>(lanes[lane]->in)->d);
        for (int i = 0; i < 4; i++) d[i] = made[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}

template <int K>
void multiply_f16(const Exchange* const* lanes) {
    multiply<float, K, 2>(lanes, [](unsigned x, int i) { return from_half(static_cast<unsigned short>(x >> 16 * i)); });
}
template <int K>
void multiply_bf16(const Exchange* const* lanes) {
    multiply<float, K, 2>(lanes, [](unsigned x, int i) { return from_bfloat(static_cast<unsigned short>(x >> 16 * i)); });
}
template <int K>
void multiply_s8(const Exchange* const* lanes) {
    multiply<int, K, 4>(lanes, [](unsigned x, int i) { return static_cast<int>(static_cast<int8_t>(x >> 8 * i)); });
}

inline void mma(int line, const char* what, void* d, const unsigned* a, const unsigned* b,
                void (*resolve)(const Exchange* const*)) {
    Fragments fragments = {a, b, d};
    Exchange mine = {line, what, 0xffffffffu, &fragments, nullptr, 0, resolve};
    shim_exchange(&mine);
}

struct Matrices {  // of a lane
    unsigned* out;
    const void* row;
};

template <int COUNT, bool TRANSPOSED>
void load_matrices(const Exchange* const* lanes) {
    unsigned short made[COUNT][8][8];
    for (int row = 0; row < 8 * COUNT; row++)
        memcpy(made[row / 8][row % 8], static_cast<const Matrices*>(lanes[row]->in)->row, 16);
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < COUNT; i++) {
            int row = lane / 4, column = lane % 4 * 2;
            unsigned low = TRANSPOSED ? made[i][column][row] : made[i][row][column];
            unsigned high = TRANSPOSED ? made[i][column + 1][row] : made[i][row][column + 1];
            static_cast<const Matrices*>(lanes[lane]->in)->out[i] = high << 16 | low;
        }
}

template <int COUNT, bool TRANSPOSED>
void ldmatrix(int line, unsigned* out, const void* row) {
    int lane = shim_now->thread.x % 32;
    if (lane < 8 * COUNT && reinterpret_cast<uintptr_t>(row) % 16)
        shim_fail("ldmatrix at line %d: a row's address is no multiple of 16 bytes", line);
    if (lane < 8 * COUNT) shim_reads(row, 16);
    Matrices matrices = {out, row};
    Exchange mine = {line, "ldmatrix", 0xffffffffu, &matrices, nullptr, 0, load_matrices<COUNT, TRANSPOSED>};
    shim_exchange(&mine);
}

}  // namespace shim

#define shim_mma_m16n8k16_f16(d, a, b) shim::mma(__LINE__, "mma.m16n8k16.f16", d, a, b, shim::multiply_f16<16>)
#define shim_mma_m16n8k8_f16(d, a, b) shim::mma(__LINE__, "mma.m16n8k8.f16", d, a, b, shim::multiply_f16<8>)
#define shim_mma_m16n8k16_bf16(d, a, b) shim::mma(__LINE__, "mma.m16n8k16.bf16", d, a, b, shim::multiply_bf16<16>)
#define shim_mma_m16n8k32_s8(d, a, b) shim::mma(__LINE__, "mma.m16n8k32.s8", d, a, b, shim::multiply_s8<32>)
#define shim_mma_m16n8k16_s8(d, a, b) shim::mma(__LINE__, "mma.m16n8k16.s8", d, a, b, shim::multiply_s8<16>)
#define shim_ldmatrix_x4(r, row) shim::ldmatrix<4, false>(__LINE__, r, row)
#define shim_ldmatrix_x2(r, row) shim::ldmatrix<2, false>(__LINE__, r, row)
#define shim_ldmatrix_x1(r, row) shim::ldmatrix<1, false>(__LINE__, r, row)
#define shim_ldmatrix_x4_trans(r, row) shim::ldmatrix<4, true>(__LINE__, r, row)
#define shim_ldmatrix_x2_trans(r, row) shim::ldmatrix<2, true>(__LINE__, r, row)
