// What the files of the library that runs kernels share: fibers.cpp runs blocks, memory.cpp watches what they touch.
#pragma once
#include "runtime.h"

namespace shim {

constexpr int MOST_THREADS = 1024, WARP = 32;
constexpr size_t STACK = (64 << 10) + 11 * 64;  // no power of 2: tops of stacks share no lines of the cache
constexpr size_t MOST_SHARED = 256 << 10;
constexpr size_t RED = 256;             // bytes around memory that kernels must not touch
constexpr unsigned char UNSET = 0xff;  // a NaN in every float type, -1 in integers

// The launch that runs.
struct Launching {
    const Kernel* kernel;
    const void* args;
    size_t shared;   // bytes of dynamic shared memory
    char* dynamic;   // where it is
    char* stack;     // of the fiber that runs
    int thread;      // the fiber that runs
    bool checked;    // the kernel says what it touches
    bool resolving;  // lanes read one another's variables
};
extern Launching launching;

// Says what is wrong, where no fiber runs.
void note(const char* format, ...) __attribute__((format(printf, 1, 2)));

void watch_launch();
void watch_block();
void watch_barrier();
void watch_warp(unsigned mask);

// False, and a note, where the edges of memory were written to.
bool edges_untouched();

}  // namespace shim
