/* Where the threads of a parallel region wait for each other: at first they spin, as a stage ends at nearly the same time
 * for all; then they let other processes run, one of which may hold up the thread that is waited for. */
#ifndef BAICHUAN2_BARRIER_H
#define BAICHUAN2_BARRIER_H

#include <sched.h>
#include <stdatomic.h>

enum { SPINS = 2000 }; /* about a tenth of a millisecond */

typedef struct {
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_int turn;
} Barrier;

static inline void pause_shortly(void) {
#ifdef __x86_64__
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline void barrier_wait(Barrier *barrier, int threads) {
    if (threads == 1) return;
    const int turn = atomic_load_explicit(&barrier->turn, memory_order_acquire);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) == threads - 1) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&barrier->turn, turn + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&barrier->turn, memory_order_acquire) == turn;) {
        if (spins++ < SPINS) pause_shortly();
        else sched_yield();
    }
}

#endif
