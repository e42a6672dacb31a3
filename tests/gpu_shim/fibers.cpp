// Runs the blocks of a kernel, a fiber a thread: see runtime.h. Built once and shared by all kernels.
#include "inside.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

using namespace shim;

namespace shim {
Launching launching;
}

namespace {

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
    Now now;
    State state;
    int line;                  // where it waits
    const Exchange* exchange;  // that it waits in
};

struct Block {
    Fiber fibers[MOST_THREADS];
    char* stacks = nullptr;
    Context main;
    int count = 0, done = 0, waiting = 0;           // waiting at the barrier
    int queue[MOST_THREADS], head = 0, length = 0;  // fibers that may run, a ring
    int order[MOST_THREADS];
    unsigned come[MOST_THREADS / WARP];  // lanes that wait in an exchange, by warp
    Order kind = FORWARD;
    uint64_t random = 1;
    bool failed = false;
    char message[1024];
    struct sigaction before;  // what the process does where memory is not there
} the;

thread_local bool is_launching;
constexpr size_t SIGNAL_STACK = 64 << 10;
alignas(16) char signal_stack[SIGNAL_STACK];

uint64_t chance() {  // xorshift64
    the.random ^= the.random << 13;
    the.random ^= the.random >> 7;
    return the.random ^= the.random << 17;
}

void push(int fiber) {
    the.fibers[fiber].state = State::ready;
    int at = the.head + the.length++;
    the.queue[at >= the.count ? at - the.count : at] = fiber;
}

// All threads may run, in the order that was asked for.
void push_all() {
    if (the.kind == SHUFFLED)
        for (int i = the.count - 1; i > 0; i--) {
            int other = static_cast<int>(chance() % (i + 1)), kept = the.order[i];
            the.order[i] = the.order[other];
            the.order[other] = kept;
        }
    for (int i = 0; i < the.count; i++) push(the.order[i]);
}

Context* next() {
    int fiber = the.queue[the.head];
    the.head = the.head + 1 == the.count ? 0 : the.head + 1;
    the.length--;
    launching.thread = fiber;
    launching.stack = the.stacks + STACK * fiber;
    shim_now = &the.fibers[fiber].now;
    return &the.fibers[fiber].context;
}

// Goes on with the next fiber that may run, or with the launch where there is none.
void leave() {
    Context* from = &the.fibers[launching.thread].context;
    Context* to = the.length == 0 ? &the.main : next();
    if (from != to) change(from, to);
}

void fiber_entry() {
    launching.kernel->run(launching.args);
    the.fibers[launching.thread].state = State::done;
    the.done++;
    leave();
    __builtin_unreachable();
}

// Why nothing can go on although threads have not ended.
void explain_stop() {
    const Fiber* stopped = nullptr;
    for (int i = 0; i < the.count; i++) {
        const Fiber& fiber = the.fibers[i];
        if (fiber.state == State::exchange) {
            unsigned missing = fiber.exchange->mask & ~the.come[i / WARP];
            const char* ended = "";
            for (int lane = 0; lane < WARP; lane++)
                if (missing >> lane & 1 && i / WARP * WARP + lane < the.count &&
                    the.fibers[i / WARP * WARP + lane].state == State::done)
                    ended = ", some have ended";
            return note("stops: %s at line %d of warp %d waits for lanes %#x of its mask %#x%s", fiber.exchange->what,
                        fiber.line, i / WARP, missing, fiber.exchange->mask, ended);
        }
        if (fiber.state == State::barrier) stopped = &fiber;
    }
    note("stops: __syncthreads at line %d: %d of %d threads came, %d have ended", stopped->line, the.waiting,
         the.count, the.done);
}

void run_block(const uint3& block, const uint3& blocks) {
    memset(launching.dynamic, UNSET, launching.shared + RED);
    size_t fixed = launching.kernel->shared_end - launching.kernel->shared;
    if (fixed) memset(launching.kernel->shared, UNSET, fixed);
    memset(the.come, 0, sizeof the.come);
    the.head = the.length = the.done = the.waiting = 0;
    for (int i = 0; i < the.count; i++) {
        Fiber& fiber = the.fibers[i];
        fiber.now = {{static_cast<unsigned>(i), 0, 0}, block, {static_cast<unsigned>(the.count), 1, 1}, blocks,
                     launching.dynamic};
        the.order[i] = the.kind == BACKWARD ? the.count - 1 - i : i;
        prepare(&fiber.context, the.stacks + STACK * i, fiber_entry);
    }
    if (launching.checked) watch_block();
    push_all();
    change(&the.main, next());
    if (the.failed) return;
    if (the.done < the.count) return explain_stop();
    for (size_t i = 0; i < RED; i++)
        if (static_cast<unsigned char>(launching.dynamic[launching.shared + i]) != UNSET)
            return note("wrote %zu bytes behind its %zu bytes of dynamic shared memory", i, launching.shared);
}

// Where a kernel uses memory that is not there: it fails instead of the process.
void on_fault(int, siginfo_t* info, void* context) {
    if (!is_launching) {
        sigaction(SIGSEGV, &the.before, nullptr);  // the access is tried again, and is the process's business
        return;
    }
    unsigned place = 0;
#if defined(__x86_64__) && defined(__linux__)
    auto* code = reinterpret_cast<const char*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
    place = static_cast<unsigned>(code - launching.kernel->image);
#endif
    shim_fail("uses memory at %p at @%#x, where there is none", info->si_addr, place);
}

// Runs while it lives: faults become failures of the kernel.
struct Guard {
    stack_t kept;
    Guard() {
        stack_t stack = {};
        stack.ss_sp = signal_stack;
        stack.ss_size = SIGNAL_STACK;
        sigaltstack(&stack, &kept);
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &the.before);
        is_launching = true;
    }
    ~Guard() {
        is_launching = false;
        sigaction(SIGSEGV, &the.before, nullptr);
        sigaltstack(&kept, nullptr);
    }
};

bool begin() {
    if (the.stacks) return true;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* stacks = mmap(nullptr, STACK * MOST_THREADS, PROT_READ | PROT_WRITE, flags, -1, 0);
    void* dynamic = mmap(nullptr, MOST_SHARED + RED, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (stacks == MAP_FAILED || dynamic == MAP_FAILED) return false;
    the.stacks = static_cast<char*>(stacks);
    launching.dynamic = static_cast<char*>(dynamic);
    return true;
}

uint64_t common_factor(uint64_t a, uint64_t b) {
    while (b) {
        uint64_t rest = a % b;
        a = b, b = rest;
    }
    return a;
}

void run_blocks(const uint3& grid) {
    uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z, at = 0, step = 1;
    if (the.kind == SHUFFLED && blocks > 2) {  // a step without a factor in common with it comes to each of them once
        do step = 1 + chance() % (blocks - 1);
        while (common_factor(step, blocks) != 1);
        at = chance() % blocks;
    }
    for (uint64_t i = 0; i < blocks && !the.failed; i++, at = (at + step) % blocks) {
        uint64_t number = the.kind == BACKWARD ? blocks - 1 - at : at;
        run_block({static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                   static_cast<unsigned>(number / grid.x / grid.y)},
                  grid);
    }
}

}  // namespace

void shim::note(const char* format, ...) {
    int kept = snprintf(the.message, sizeof the.message, "kernel %s ", launching.kernel->name);
    va_list values;
    va_start(values, format);
    vsnprintf(the.message + kept, sizeof the.message - kept, format, values);
    va_end(values);
    the.failed = true;
}

#pragma GCC visibility push(default)
extern "C" {

const Now* shim_now;

void shim_fail(const char* format, ...) {
    char what[800];
    va_list values;
    va_start(values, format);
    vsnprintf(what, sizeof what, format, values);
    va_end(values);
    const uint3& block = shim_now->block;
    note("block (%u, %u, %u) thread %d: %s", block.x, block.y, block.z, launching.thread, what);
    change(&the.fibers[launching.thread].context, &the.main);
    abort();  // nothing goes back to a fiber that failed
}

void shim_barrier(int line) {
    Fiber& mine = the.fibers[launching.thread];
    mine.state = State::barrier;
    mine.line = line;
    if (++the.waiting < the.count) return leave();
    for (int i = 0; i < the.count; i++)
        if (the.fibers[i].line != line)
            shim_fail("is at __syncthreads at line %d, but thread %d at the one at line %d", line, i,
                      the.fibers[i].line);
    the.waiting = 0;
    if (launching.checked) watch_barrier();
    push_all();
    leave();
}

void shim_exchange(const Exchange* mine) {
    int warp = launching.thread / WARP, lane = launching.thread % WARP;
    unsigned mask = mine->mask;
    if (!(mask >> lane & 1))
        shim_fail("%s at line %d: lane %d is not in its mask %#x", mine->what, mine->line, lane, mask);
    Fiber& self = the.fibers[launching.thread];
    self.state = State::exchange;
    self.line = mine->line;
    self.exchange = mine;
    the.come[warp] |= 1u << lane;
    if ((the.come[warp] & mask) != mask) return leave();
    the.come[warp] &= ~mask;
    const Exchange* lanes[WARP] = {};
    for (int i = 0; i < WARP; i++) {
        if (!(mask >> i & 1)) continue;
        const Fiber& other = the.fibers[warp * WARP + i];
        lanes[i] = other.exchange;
        if (other.line != mine->line || lanes[i]->mask != mask || lanes[i]->resolve != mine->resolve)
            shim_fail("is at %s at line %d with mask %#x, but lane %d at %s at line %d with mask %#x", mine->what,
                      mine->line, mask, i, lanes[i]->what, other.line, lanes[i]->mask);
    }
    if (mine->resolve) {
        launching.resolving = true;
        mine->resolve(lanes);
        launching.resolving = false;
    } else if (launching.checked) {
        watch_warp(mask);
    }
    int turn = the.kind == BACKWARD ? WARP - 1 : the.kind == SHUFFLED ? static_cast<int>(chance() % WARP) : 0;
    for (int i = 0; i < WARP; i++)
        if (lanes[i ^ turn]) push(warp * WARP + (i ^ turn));
    leave();
}

// Runs a kernel; what went wrong, or null.
const char* shim_launch(const Kernel* kernel, const void* args, const unsigned* grid, int threads, size_t shared,
                        int order, uint64_t seed, int checked) {
    if (!begin()) return "no memory for the stacks of a block's threads";
    launching.kernel = kernel;
    launching.args = args;
    launching.shared = shared;
    launching.checked = checked;
    launching.resolving = false;
    the.count = threads;
    the.kind = static_cast<Order>(order);
    the.random = (seed + 1) * 0x9e3779b97f4a7c15u;
    the.failed = false;
    if (checked) watch_launch();
    Guard guard;
    run_blocks({grid[0], grid[1], grid[2]});
    return the.failed || !edges_untouched() ? the.message : nullptr;
}
}
