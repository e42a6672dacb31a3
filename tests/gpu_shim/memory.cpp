// Watches what kernels touch. Edges of device memory are looked at after each launch, of any kernel. Kernels that are
// compiled with -fsanitize=thread call the functions below at each load and store: these find what is outside of
// memory, and races, at the granularity of a byte.
//
// Two accesses to a byte, one of them a write, must be ordered: by __syncthreads within a block, by __syncwarp within
// a warp (shuffles and votes order no memory), by a launch's end, or between blocks by __threadfence and an atomic
// operation. Threads have a clock for their warp, as vector clocks have; an epoch counts barriers and blocks.
#include "inside.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <vector>

using namespace shim;

namespace {

struct Access {  // the last of its kind; lanes of a warp may share one
    unsigned epoch, clock, lanes, place;  // place: of the code, in the kernel's image
    unsigned short warp;
    bool atomic, more;  // more: other warps did so, too
};
struct Cell {  // of a byte
    Access read, write;
};

struct Region {  // memory that the kernel may use
    char* address;
    size_t bytes;
    Cell* cells;
    bool of_block;  // shared memory
};

struct Turn {  // a block of the launch that runs
    unsigned first;  // epoch
    bool fenced, released, acquired;
};

std::vector<Region> allocations;  // by address
Region shared_fixed, shared_dynamic;
size_t last;  // the allocation that was touched last
std::vector<Turn> turns;
unsigned epoch = 1, launch_first = 1, block_first = 1;
unsigned clocks[MOST_THREADS];
unsigned seen[MOST_THREADS][WARP];  // what a thread knows of the clocks of its warp

Cell* cells_for(size_t bytes) {
    void* made = mmap(nullptr, bytes * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                      -1, 0);
    return made == MAP_FAILED ? nullptr : static_cast<Cell*>(made);
}

void give_back(Region& region) {
    if (region.cells) munmap(region.cells, region.bytes * sizeof(Cell));
    region.cells = nullptr;
}

std::vector<Region>::iterator behind(const void* at) {
    return std::upper_bound(allocations.begin(), allocations.end(), static_cast<const char*>(at),
                            [](const char* address, const Region& region) { return address < region.address; });
}

bool within(const Region& region, const char* at, size_t bytes) {
    return at >= region.address && at + bytes <= region.address + region.bytes;
}

// The region that has these bytes, or null.
Region* region_of(const char* at, size_t bytes) {
    if (within(shared_dynamic, at, bytes)) return &shared_dynamic;
    if (within(shared_fixed, at, bytes)) return &shared_fixed;
    if (last < allocations.size() && within(allocations[last], at, bytes)) return &allocations[last];
    auto found = behind(at);
    if (found == allocations.begin() || !within(*--found, at, bytes)) return nullptr;
    last = found - allocations.begin();
    return &*found;
}

const Turn& turn_of(unsigned at) {
    auto found = std::upper_bound(turns.begin(), turns.end(), at, [](unsigned e, const Turn& t) { return e < t.first; });
    return *--found;
}

// Whether an access happened before what the thread that runs does now.
bool ordered(const Access& old, const Region& region) {
    if (old.epoch < launch_first) return true;
    if (old.epoch < block_first) return region.of_block || turns.back().acquired && turn_of(old.epoch).released;
    if (old.epoch < epoch) return true;
    int thread = launching.thread;
    if (old.more || old.warp != thread / WARP) return false;
    for (unsigned lanes = old.lanes & ~(1u << thread % WARP); lanes; lanes &= lanes - 1)
        if (seen[thread][__builtin_ctz(lanes)] < old.clock) return false;
    return true;
}

unsigned place_of(const void* code) {
    return static_cast<unsigned>(static_cast<const char*>(code) - launching.kernel->image - 1);
}

[[noreturn]] void fail_race(const Access& old, const char* before, const char* now, size_t bytes, const void* code) {
    const char* missing = old.epoch < block_first ? "another block" : old.more || old.warp != launching.thread / WARP
                              ? "a thread of another warp, with no __syncthreads between"
                              : "another lane of its warp, with no __syncwarp between";
    shim_fail("a race: %s %zu bytes at @%#x, which were %s at @%#x by %s", now, bytes, place_of(code), before, old.place,
              missing);
}

void replace(Access& old, const void* code, bool atomic) {
    int thread = launching.thread;
    old = {epoch, clocks[thread], 1u << thread % WARP, place_of(code), static_cast<unsigned short>(thread / WARP), atomic,
           false};
}

void add_reader(Access& old, const Region& region, const void* code) {
    int thread = launching.thread;
    if (old.epoch != epoch || ordered(old, region)) return replace(old, code, false);
    if (old.warp != thread / WARP) old.more = true;
    old.lanes |= 1u << thread % WARP;
    old.clock = std::min(old.clock, clocks[thread]);
}

enum class Kind { read, write, atomic };

[[noreturn]] void fail_outside(const char* at, size_t bytes, Kind kind, const void* code) {
    const char* verb = kind == Kind::read ? "reads" : "writes";
    if (at >= shared_dynamic.address && at < shared_dynamic.address + MOST_SHARED)
        shim_fail("%s %zu bytes at @%#x, %td bytes into dynamic shared memory of %zu bytes", verb, bytes, place_of(code),
                  at - shared_dynamic.address, shared_dynamic.bytes);
    auto found = behind(at);
    if (found != allocations.begin()) {
        --found;
        shim_fail("%s %zu bytes at @%#x, outside of memory: %td bytes into an allocation of %zu bytes", verb, bytes,
                  place_of(code), at - found->address, found->bytes);
    }
    shim_fail("%s %zu bytes at @%#x, outside of memory: %p", verb, bytes, place_of(code), static_cast<const void*>(at));
}

bool of_host(const char* at) {
    const char* args = static_cast<const char*>(launching.args);
    const char* now = reinterpret_cast<const char*>(shim_now);
    const char* pointer = reinterpret_cast<const char*>(&shim_now);
    return (at >= now && at < now + sizeof(Now)) || (at >= pointer && at < pointer + sizeof shim_now) ||
           (at >= args && at < args + launching.kernel->args);
}

void touch(const void* address, size_t bytes, Kind kind, const void* code) {
    const char* at = static_cast<const char*>(address);
    if (!launching.checked || launching.resolving) return;
    if (at >= launching.stack && at < launching.stack + STACK) return;
    if (of_host(at)) return;
    Region* region = region_of(at, bytes);
    if (!region) {
        const Kernel& kernel = *launching.kernel;  // its constants, and notes of g++ whether an array was made
        if (at >= kernel.image && at < kernel.image_end && !(at >= kernel.shared && at < kernel.shared_end)) return;
        fail_outside(at, bytes, kind, code);
    }
    if (!region->cells && !(region->cells = cells_for(region->bytes))) shim_fail("no memory to look for races in");
    for (Cell *cell = region->cells + (at - region->address), *end = cell + bytes; cell < end; cell++) {
        bool both_atomic = kind == Kind::atomic && cell->write.atomic;
        if (!both_atomic && !ordered(cell->write, *region))
            fail_race(cell->write, cell->write.atomic ? "changed atomically" : "written",
                      kind == Kind::read ? "reads" : "writes", bytes, code);
        if (kind == Kind::read) {
            add_reader(cell->read, *region, code);
            continue;
        }
        if (!ordered(cell->read, *region)) fail_race(cell->read, "read", "writes", bytes, code);
        replace(cell->write, code, kind == Kind::atomic);
    }
}

}  // namespace

void shim::watch_launch() {
    launch_first = ++epoch;
    turns.clear();
    give_back(shared_fixed);
    give_back(shared_dynamic);
    shared_fixed = {launching.kernel->shared, static_cast<size_t>(launching.kernel->shared_end - launching.kernel->shared),
                    nullptr, true};
    shared_dynamic = {launching.dynamic, launching.shared, nullptr, true};
}

void shim::watch_block() {
    block_first = ++epoch;
    turns.push_back({epoch, false, false, false});
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < MOST_THREADS; i++) seen[i][i % WARP] = clocks[i] = 1;
}

void shim::watch_barrier() { epoch++; }

void shim::watch_warp(unsigned mask) {
    int base = launching.thread / WARP * WARP;
    unsigned joined[WARP] = {};
    for (int lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1)
            for (int i = 0; i < WARP; i++) joined[i] = std::max(joined[i], seen[base + lane][i]);
    for (int lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1) {
            memcpy(seen[base + lane], joined, sizeof joined);
            seen[base + lane][lane] = ++clocks[base + lane];
        }
}

static bool untouched(const char* at) {
    for (size_t i = 0; i < RED; i++)
        if (static_cast<unsigned char>(at[i]) != UNSET) return false;
    return true;
}

bool shim::edges_untouched() {
    for (const Region& one : allocations) {
        bool before = !untouched(one.address - RED);
        if (!before && untouched(one.address + one.bytes)) continue;
        memset(one.address - RED, UNSET, RED);
        memset(one.address + one.bytes, UNSET, RED);
        note("wrote %s %zu bytes of device memory at %p", before ? "before" : "behind", one.bytes,
             static_cast<void*>(one.address));
        return false;
    }
    return true;
}

#pragma GCC visibility push(default)
extern "C" {

// Memory that kernels may use, with RED bytes on both sides that they must not.
void shim_add(char* address, size_t bytes) {
    allocations.insert(behind(address), {address, bytes, nullptr, false});
    memset(address - RED, UNSET, RED);
    memset(address + bytes, UNSET, RED);
}

void shim_remove(char* address) {
    auto found = behind(address) - 1;
    give_back(*found);
    allocations.erase(found);
}

void shim_reads(const void* at, size_t bytes) { touch(at, bytes, Kind::read, __builtin_return_address(0)); }

void shim_atomic(void* at, size_t bytes) {
    if (!launching.checked) return;
    touch(at, bytes, Kind::atomic, __builtin_return_address(0));
    Turn& turn = turns.back();
    turn.released |= turn.fenced;
    turn.acquired = true;
}

void shim_fence() {
    if (launching.checked) turns.back().fenced = true;
}

// What g++ -fsanitize=thread calls.
#define ACCESS(name, kind, bytes) \
    void __tsan_##name(void* at) { touch(at, bytes, Kind::kind, __builtin_return_address(0)); }
#define ACCESSES(bytes)                             \
    ACCESS(read##bytes, read, bytes)                \
    ACCESS(write##bytes, write, bytes)              \
    ACCESS(unaligned_read##bytes, read, bytes)      \
    ACCESS(unaligned_write##bytes, write, bytes)    \
    ACCESS(volatile_read##bytes, read, bytes)       \
    ACCESS(volatile_write##bytes, write, bytes)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
void __tsan_read_range(void* at, size_t bytes) { touch(at, bytes, Kind::read, __builtin_return_address(0)); }
void __tsan_write_range(void* at, size_t bytes) { touch(at, bytes, Kind::write, __builtin_return_address(0)); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// What g++ -fsanitize=undefined calls; the code's place is enough to say where.
#define UNDEFINED(name, ...) \
    void __ubsan_handle_##name(__VA_ARGS__) { shim_fail("%s at @%#x", wrong(#name), place_of(__builtin_return_address(0))); }
static const char* wrong(const char* handler) {
    static const char* const words[][2] = {
        {"type_mismatch_v1", "an address that is not aligned for what is there, or null,"},
        {"out_of_bounds", "an index outside of its array"},
        {"shift_out_of_bounds", "a shift by more bits than there are"},
        {"divrem_overflow", "a division by zero or of the least number by -1"},
        {"float_cast_overflow", "a float that the integer it becomes cannot hold"},
    };
    for (auto& each : words)
        if (!strcmp(each[0], handler)) return each[1];
    return "an integer overflow";
}
UNDEFINED(type_mismatch_v1, void*, void*)
UNDEFINED(out_of_bounds, void*, void*)
UNDEFINED(shift_out_of_bounds, void*, void*, void*)
UNDEFINED(divrem_overflow, void*, void*, void*)
UNDEFINED(float_cast_overflow, void*, void*)
UNDEFINED(add_overflow, void*, void*, void*)
UNDEFINED(sub_overflow, void*, void*, void*)
UNDEFINED(mul_overflow, void*, void*, void*)
UNDEFINED(negate_overflow, void*, void*)
}
