// What threads of a block and lanes of a warp do together. `__LINE__` is the place, which all must reach.
#pragma once

#define __syncthreads() shim_barrier(__LINE__)
#define __syncwarp(...) shim::sync(__LINE__ __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_sync(...) shim::shuffle("__shfl_sync", shim::INDEX, __LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) shim::shuffle("__shfl_xor_sync", shim::XOR, __LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) shim::shuffle("__shfl_down_sync", shim::DOWN, __LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) shim::shuffle("__shfl_up_sync", shim::UP, __LINE__, __VA_ARGS__)
#define __ballot_sync(mask, is) shim::ballot("__ballot_sync", __LINE__, mask, is)
#define __any_sync(mask, is) (shim::ballot("__any_sync", __LINE__, mask, is) != 0)
#define __all_sync(mask, is) (shim::ballot("__all_sync", __LINE__, mask, is) == (mask))
#define __threadfence() shim_fence()
#define __threadfence_block() ((void)0)  // fibers see all that others wrote

namespace shim {

inline void sync(int line, unsigned mask = 0xffffffffu) {
    Exchange mine = {line, "__syncwarp", mask, nullptr, nullptr, 0, nullptr};
    shim_exchange(&mine);
}

enum Direction { INDEX, XOR, DOWN, UP };

// What a lane that is not in the mask has: a value that no result can hide.
template <class T>
T unset() {
    T value;
    memset(static_cast<void*>(&value), 0xff, sizeof value);
    return value;
}

template <class T>
void exchange_values(const Exchange* const* lanes) {
    for (int i = 0; i < 32; i++) {
        if (!lanes[i]) continue;
        const Exchange* from = lanes[lanes[i]->argument];
        *static_cast<T*>(lanes[i]->out) = from ? *static_cast<const T*>(from->in) : unset<T>();
    }
}

// The lane that a lane's value comes from, within its segment of `width` lanes (PTX ISA, "shfl.sync").
inline int source(Direction direction, int lane, int by, int width) {
    int first = lane & -width, last = first + width - 1;
    switch (direction) {
        case INDEX: return first + (by & (width - 1));
        case XOR: return (lane ^ by) <= last ? lane ^ by : lane;
        case DOWN: return lane + by <= last ? lane + by : lane;
        default: return lane - by >= first ? lane - by : lane;
    }
}

template <class T>
T shuffle(const char* what, Direction direction, int line, unsigned mask, T value, int by, int width = 32) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8, "shuffles have 2, 4 or 8 bytes");
    int lane = shim_now->thread.x % 32;
    if (width < 1 || width > 32 || (width & (width - 1))) shim_fail("%s of width %d", what, width);
    if (direction != INDEX && (by < 0 || by > 31)) shim_fail("%s by %d lanes", what, by);
    T out;
    Exchange mine = {line, what, mask, &value, &out, source(direction, lane, by, width), exchange_values<T>};
    shim_exchange(&mine);
    return out;
}

inline void exchange_votes(const Exchange* const* lanes) {
    unsigned votes = 0;
    for (int i = 0; i < 32; i++)
        if (lanes[i] && lanes[i]->argument) votes |= 1u << i;
    for (int i = 0; i < 32; i++)
        if (lanes[i]) *static_cast<unsigned*>(lanes[i]->out) = votes;
}

inline unsigned ballot(const char* what, int line, unsigned mask, bool is) {
    unsigned out;
    Exchange mine = {line, what, mask, nullptr, &out, is, exchange_votes};
    shim_exchange(&mine);
    return out;
}

}  // namespace shim

// Threads take turns, so plain code is atomic; it is not one of the accesses that are looked at for races.
template <class T, class Change>
__attribute__((noinline, no_sanitize("thread"))) T shim_unseen_update(T* at, Change change) {
    T old = *at;
    *at = change(old);
    return old;
}
template <class T, class Change>
__forceinline__ T shim_update(T* at, Change change) {
    shim_atomic(at, sizeof(T));
    return shim_unseen_update(at, change);
}
template <class T, class S>
__forceinline__ T atomicAdd(T* at, S value) {
    return shim_update(at, [=](T old) { return static_cast<T>(old + value); });
}
template <class T, class S>
__forceinline__ T atomicSub(T* at, S value) {
    return shim_update(at, [=](T old) { return static_cast<T>(old - value); });
}
template <class T, class S>
__forceinline__ T atomicMax(T* at, S value) {
    return shim_update(at, [=](T old) { return old < static_cast<T>(value) ? static_cast<T>(value) : old; });
}
template <class T, class S>
__forceinline__ T atomicMin(T* at, S value) {
    return shim_update(at, [=](T old) { return static_cast<T>(value) < old ? static_cast<T>(value) : old; });
}
template <class T, class S>
__forceinline__ T atomicOr(T* at, S value) {
    return shim_update(at, [=](T old) { return static_cast<T>(old | value); });
}
template <class T, class S>
__forceinline__ T atomicExch(T* at, S value) {
    return shim_update(at, [=](T) { return static_cast<T>(value); });
}
template <class T, class S, class V>
__forceinline__ T atomicCAS(T* at, S compared, V value) {
    return shim_update(at, [=](T old) { return old == static_cast<T>(compared) ? static_cast<T>(value) : old; });
}
__forceinline__ unsigned atomicInc(unsigned* at, unsigned most) {
    return shim_update(at, [=](unsigned old) { return old >= most ? 0 : old + 1; });
}
