// Runs kernels on the CPU: see runtime.h. Built once and shared by all kernels.
#include "runtime.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace {

constexpr int MOST_THREADS = 1024, WARP = 32;
constexpr size_t STACK = 128 << 10, MOST_SHARED = 256 << 10, RED = 256;
constexpr unsigned char UNSET = 0xff;  // a NaN in every float type, -1 in integers

enum class State { ready, barrier, exchange, done };
enum Order { FORWARD, BACKWARD, SHUFFLED };

#if defined(__x86_64__)
// A context is its stack pointer: what a call must keep lies on its stack.
using Context = void*;
extern "C" void shim_switch(Context* from, Context to);
asm(R"(
    .text
    .globl shim_switch
    .hidden shim_switch
    .type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size shim_switch, .-shim_switch
)");
void prepare(Context* made, char* stack, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + STACK);
    *--top = nullptr;  // entry begins as behind a call: 16 bytes aligned, plus 8
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    *made = top;
}
void change(Context* from, Context* to) { shim_switch(from, *to); }
#else
using Context = ucontext_t;
void prepare(Context* made, char* stack, void (*entry)()) {
    getcontext(made);
    made->uc_stack.ss_sp = stack;
    made->uc_stack.ss_size = STACK;
    made->uc_link = nullptr;
    makecontext(made, entry, 0);
}
void change(Context* from, Context* to) { swapcontext(from, to); }
#endif

struct Fiber {
    Context context;
    shim::Now now;
    State state;
    int line;                        // where it waits
    const shim::Exchange* exchange;  // that it waits in
};

struct Allocation {
    char* address;
    size_t bytes;
};

struct Runtime {
    Fiber fibers[MOST_THREADS];
    char* stacks = nullptr;
    char* dynamic = nullptr;
    Context main;
    int count = 0, running = 0, done = 0, waiting = 0;  // waiting at the barrier
    int queue[MOST_THREADS], head = 0, length = 0;      // fibers that may run, a ring
    int order[MOST_THREADS];
    unsigned come[MOST_THREADS / WARP];  // lanes that wait in an exchange, by warp
    Order kind = FORWARD;
    uint64_t random = 1;
    const shim::Kernel* kernel = nullptr;
    const void* args = nullptr;
    bool failed = false;
    char message[1024];
    Allocation* allocations = nullptr;
    size_t allocated = 0, room = 0;
} rt;

uint64_t chance() {  // xorshift64
    rt.random ^= rt.random << 13;
    rt.random ^= rt.random >> 7;
    return rt.random ^= rt.random << 17;
}

void arrange(int* order, int count) {
    for (int i = 0; i < count; i++) order[i] = rt.kind == BACKWARD ? count - 1 - i : i;
    if (rt.kind == SHUFFLED)
        for (int i = count - 1; i > 0; i--) {
            int other = static_cast<int>(chance() % (i + 1)), kept = order[i];
            order[i] = order[other];
            order[other] = kept;
        }
}

void push(int fiber) {
    rt.fibers[fiber].state = State::ready;
    int at = rt.head + rt.length++;
    rt.queue[at >= rt.count ? at - rt.count : at] = fiber;
}

// Goes on with the next fiber that may run, or with the launch where there is none.
void leave() {
    Fiber& from = rt.fibers[rt.running];
    if (rt.length == 0 || rt.failed) {
        change(&from.context, &rt.main);
        return;
    }
    int next = rt.queue[rt.head];
    rt.head = rt.head + 1 == rt.count ? 0 : rt.head + 1;
    rt.length--;
    if (next == rt.running) return;
    rt.running = next;
    shim_now = &rt.fibers[next].now;
    change(&from.context, &rt.fibers[next].context);
}

void fiber_entry() {
    rt.kernel->run(rt.args);
    rt.fibers[rt.running].state = State::done;
    rt.done++;
    leave();
    __builtin_unreachable();
}

// Why nothing can go on although threads have not ended.
void explain_stop() {
    int at_barrier = -1, in_exchange = -1;
    for (int i = 0; i < rt.count; i++) {
        if (rt.fibers[i].state == State::barrier) at_barrier = i;
        if (rt.fibers[i].state == State::exchange) in_exchange = i;
    }
    char* text = rt.message;
    size_t room = sizeof rt.message;
    int kept = snprintf(text, room, "kernel %s, block (%u, %u, %u): ", rt.kernel->name, shim_now->block.x,
                        shim_now->block.y, shim_now->block.z);
    text += kept, room -= kept;
    if (in_exchange >= 0) {
        const Fiber& fiber = rt.fibers[in_exchange];
        int base = in_exchange / WARP * WARP;
        unsigned come = 0;
        for (int i = 0; i < WARP && base + i < rt.count; i++)
            if (rt.fibers[base + i].state == State::exchange && rt.fibers[base + i].line == fiber.line) come |= 1u << i;
        snprintf(text, room, "%s at line %d of warp %d waits for lanes %#x that did not come (mask %#x)",
                 fiber.exchange->what, fiber.line, in_exchange / WARP, fiber.exchange->mask & ~come,
                 fiber.exchange->mask);
    } else {
        snprintf(text, room, "__syncthreads at line %d: %d of %d threads came, %d had ended", rt.fibers[at_barrier].line,
                 rt.waiting, rt.count, rt.done);
    }
    rt.failed = true;
}

void run_block(const uint3& block, const uint3& blocks, size_t shared) {
    memset(rt.dynamic, UNSET, shared + RED);
    size_t fixed = rt.kernel->shared_end - rt.kernel->shared;
    if (fixed) memset(rt.kernel->shared, UNSET, fixed);
    rt.head = rt.length = rt.done = rt.waiting = 0;
    memset(rt.come, 0, sizeof rt.come);
    arrange(rt.order, rt.count);
    for (int i = 0; i < rt.count; i++) {
        Fiber& fiber = rt.fibers[i];
        fiber.now = {{static_cast<unsigned>(i), 0, 0}, block, {static_cast<unsigned>(rt.count), 1, 1}, blocks, rt.dynamic};
        prepare(&fiber.context, rt.stacks + STACK * i, fiber_entry);
    }
    for (int i = 0; i < rt.count; i++) push(rt.order[i]);
    rt.running = rt.queue[rt.head];
    rt.head = rt.count == 1 ? 0 : 1;
    rt.length--;
    shim_now = &rt.fibers[rt.running].now;
    change(&rt.main, &rt.fibers[rt.running].context);
    if (rt.failed) return;
    if (rt.done < rt.count) return explain_stop();
    for (size_t i = 0; i < RED; i++)
        if (static_cast<unsigned char>(rt.dynamic[shared + i]) != UNSET) {
            snprintf(rt.message, sizeof rt.message, "kernel %s wrote %zu bytes behind its %zu bytes of shared memory",
                     rt.kernel->name, i, shared);
            rt.failed = true;
            return;
        }
}

bool prepare_runtime() {
    if (rt.stacks) return true;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* stacks = mmap(nullptr, STACK * MOST_THREADS, PROT_READ | PROT_WRITE, flags, -1, 0);
    void* dynamic = mmap(nullptr, MOST_SHARED + RED, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (stacks == MAP_FAILED || dynamic == MAP_FAILED) return false;
    rt.stacks = static_cast<char*>(stacks);
    rt.dynamic = static_cast<char*>(dynamic);
    return true;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

const shim::Now* shim_now;

void shim_fail(const char* format, ...) {
    int kept = snprintf(rt.message, sizeof rt.message, "kernel %s, block (%u, %u, %u), thread %u: ", rt.kernel->name,
                        shim_now->block.x, shim_now->block.y, shim_now->block.z, shim_now->thread.x);
    va_list values;
    va_start(values, format);
    vsnprintf(rt.message + kept, sizeof rt.message - kept, format, values);
    va_end(values);
    rt.failed = true;
    change(&rt.fibers[rt.running].context, &rt.main);
    abort();  // nothing goes back to a fiber that failed
}

void shim_barrier(int line) {
    Fiber& mine = rt.fibers[rt.running];
    mine.state = State::barrier;
    mine.line = line;
    if (++rt.waiting < rt.count) return leave();
    for (int i = 0; i < rt.count; i++)
        if (rt.fibers[i].line != line)
            shim_fail("__syncthreads at line %d, but thread %d is at the one at line %d", line, i, rt.fibers[i].line);
    rt.waiting = 0;
    if (rt.kind == SHUFFLED) arrange(rt.order, rt.count);
    for (int i = 0; i < rt.count; i++) push(rt.order[i]);
    leave();
}

void shim_exchange(const shim::Exchange* mine) {
    int lane = rt.running % WARP, base = rt.running - lane;
    if (!(mine->mask >> lane & 1)) shim_fail("%s at line %d: lane %d is not in its mask %#x", mine->what, mine->line, lane, mine->mask);
    Fiber& self = rt.fibers[rt.running];
    self.state = State::exchange;
    self.line = mine->line;
    self.exchange = mine;
    unsigned& come = rt.come[rt.running / WARP];
    come |= 1u << lane;
    if ((come & mine->mask) != mine->mask) return leave();
    come &= ~mine->mask;
    const shim::Exchange* lanes[WARP] = {};
    for (int i = 0; i < WARP; i++) {
        if (!(mine->mask >> i & 1)) continue;
        Fiber& other = rt.fibers[base + i];
        if (other.line != mine->line || other.exchange->mask != mine->mask)
            shim_fail("%s at line %d with mask %#x, but lane %d is at %s at line %d with mask %#x", mine->what, mine->line,
                      mine->mask, i, other.exchange->what, other.line, other.exchange->mask);
        lanes[i] = other.exchange;
    }
    mine->resolve(lanes);
    for (int i = 0; i < WARP; i++) {
        int at = rt.kind == BACKWARD ? WARP - 1 - i : i;
        if (lanes[at] && base + at != rt.running) push(base + at);
    }
    self.state = State::ready;  // the last goes on
}

// Memory that kernels may use, with RED bytes on both sides that they must not.
int shim_add(char* address, size_t bytes) {
    if (rt.allocated == rt.room) {
        size_t room = rt.room ? 2 * rt.room : 64;
        void* moved = realloc(rt.allocations, room * sizeof(Allocation));
        if (!moved) return 1;
        rt.allocations = static_cast<Allocation*>(moved);
        rt.room = room;
    }
    rt.allocations[rt.allocated++] = {address, bytes};
    memset(address - RED, UNSET, RED);
    memset(address + bytes, UNSET, RED);
    return 0;
}

void shim_remove(char* address) {
    for (size_t i = 0; i < rt.allocated; i++)
        if (rt.allocations[i].address == address) {
            rt.allocations[i] = rt.allocations[--rt.allocated];
            return;
        }
}

static bool untouched(const char* at) {
    for (size_t i = 0; i < RED; i++)
        if (static_cast<unsigned char>(at[i]) != UNSET) return false;
    return true;
}

// Runs a kernel; what went wrong, or null.
const char* shim_launch(const shim::Kernel* kernel, const void* args, const unsigned* grid, int threads, size_t shared,
                        int order, uint64_t seed) {
    if (!prepare_runtime()) return "no memory for the stacks of a block's threads";
    rt.kernel = kernel;
    rt.args = args;
    rt.count = threads;
    rt.kind = static_cast<Order>(order);
    rt.random = seed * 2654435769u + 88172645463325252u;
    rt.failed = false;
    uint64_t blocks = static_cast<uint64_t>(grid[0]) * grid[1] * grid[2];
    uint64_t step = 1;
    if (rt.kind == SHUFFLED && blocks > 2) {  // a step that has no factor in common with it walks through all of them
        auto common = [](uint64_t a, uint64_t b) {
            while (b) {
                uint64_t rest = a % b;
                a = b, b = rest;
            }
            return a;
        };
        do step = 1 + chance() % (blocks - 1);
        while (common(step, blocks) != 1);
    }
    uint64_t at = rt.kind == SHUFFLED ? chance() % blocks : 0;
    for (uint64_t i = 0; i < blocks && !rt.failed; i++, at = (at + step) % blocks) {
        uint64_t number = rt.kind == BACKWARD ? blocks - 1 - at : at;
        uint3 block = {static_cast<unsigned>(number % grid[0]), static_cast<unsigned>(number / grid[0] % grid[1]),
                       static_cast<unsigned>(number / grid[0] / grid[1])};
        run_block(block, {grid[0], grid[1], grid[2]}, shared);
    }
    if (rt.failed) return rt.message;
    for (size_t i = 0; i < rt.allocated; i++) {
        const Allocation& one = rt.allocations[i];
        bool before = !untouched(one.address - RED);
        if (!before && untouched(one.address + one.bytes)) continue;
        memset(one.address - RED, UNSET, RED);
        memset(one.address + one.bytes, UNSET, RED);
        snprintf(rt.message, sizeof rt.message, "kernel %s wrote %s %zu bytes of device memory at %p", kernel->name,
                 before ? "before" : "behind", one.bytes, static_cast<void*>(one.address));
        return rt.message;
    }
    return nullptr;
}
}
