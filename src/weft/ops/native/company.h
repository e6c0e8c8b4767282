// The threads of a parallel region: how they meet, share rows, and take work in turn. Code of several libraries runs in
// one region this way, since a region's beginning and end cost a small layer as much as its arithmetic.
#pragma once
#include <omp.h>
#include <sched.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <atomic>

// The threads of a parallel region meet. They wait actively, as a step has many meetings and each is short,
// but not for long: where the system runs something else meanwhile, waiting must not take its time.
class Meeting {
    std::atomic<long> arrived{0}, round{0};

  public:
    void wait() {
        const long now = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == omp_get_num_threads()) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
            return;
        }
        for (long spins = 0; round.load(std::memory_order_acquire) == now; spins++) {
#if defined(__x86_64__)
            _mm_pause();
#endif
            if (spins > 2000) sched_yield();
        }
    }
};

// What the threads of one region share. They take work from a counter, piece by piece: while one counter is in use, the
// one after next is reset, which no thread can have reached before the meeting between them.
struct Company {
    std::atomic<long> next[3] = {};
    Meeting meeting;
};
struct Turn {
    Company &company;
    int at = 0;
    void meet() { company.meeting.wait(); }
    std::atomic<long> &take() {
        company.next[(at + 1) % 3].store(0, std::memory_order_relaxed);
        return company.next[at++ % 3];
    }
};

// This thread's part of some rows.
struct Share {
    long first, last;
    explicit Share(long rows) {
        long threads = omp_get_num_threads(), me = omp_get_thread_num();
        first = rows * me / threads, last = rows * (me + 1) / threads;
    }
};
