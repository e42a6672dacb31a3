// What kernels compiled for the CPU and the library that runs them share. A block's threads are fibers of one thread:
// each runs until it waits for others (a barrier, or an exchange within its warp) or ends.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct uint3 {
    unsigned x, y, z;
};

namespace shim {

// Where the fiber that runs now is. The library keeps it.
struct Now {
    uint3 thread, block, threads, blocks;
    char* dynamic;  // dynamic shared memory
};

// What a compiled kernel says about itself.
struct Kernel {
    const char* name;
    void (*run)(const void* args);
    size_t args;                    // bytes
    const char *image, *image_end;  // where it is loaded
    char *shared, *shared_end;      // its static shared memory
};

// What the lanes of a warp exchange at one place of the source.
struct Exchange {
    int line;          // of the source, which is the same for all of them
    const char* what;  // for messages
    unsigned mask;     // lanes that take part
    const void* in;    // of a lane
    void* out;         // of a lane
    int argument;      // of a lane
    // Fills what all lanes want, called once when all have come: lane i's exchange is lanes[i], null where it has none.
    // Null for __syncwarp, the one that orders memory.
    void (*resolve)(const Exchange* const* lanes);
};

}  // namespace shim

#pragma GCC visibility push(default)
extern "C" {
extern const shim::Now* shim_now;
void shim_barrier(int line);
void shim_exchange(const shim::Exchange* mine);
void shim_reads(const void* at, size_t bytes);  // where the compiler does not say so by itself
void shim_atomic(void* at, size_t bytes);       // an atomic operation is about to be
void shim_fence();
[[noreturn]] void shim_fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
}
#pragma GCC visibility pop
