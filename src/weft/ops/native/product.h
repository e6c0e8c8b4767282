// A product shared by the threads of a parallel region, with the kernels that this processor has.
#pragma once
#include <omp.h>
#include <sched.h>

#include <atomic>

#include "tiles.h"

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

// out[rows, N] (+)= x w^T (+ bias), or out[rows, N / 2] of SwiGLU. Called by every thread of a parallel region with the same `next`, which
// begins at 0: threads take panels as they come, so one that the system holds up holds up nobody else.
static void product(const Matrix &m, const Rows &a, long rows, float *out, long ld, Use use,
                    std::atomic<long> &next) {
    const long panels = ceil_div(m.N, PANEL);
    // Less and less at a time, so that all are done at the same time.
    auto every = [&](auto work) {
        const long threads = omp_get_num_threads();
        for (long at = next.load(std::memory_order_relaxed); at < panels;) {
            const long share = (panels - at) / (2 * threads), unit = share > 1 ? share : 1;
            if (!next.compare_exchange_weak(at, at + unit, std::memory_order_relaxed)) continue;
            for (long panel = at; panel < at + unit; panel++) work(panel);
            at = next.load(std::memory_order_relaxed);
        }
    };
    if (tiles::take(m.format)) {
        tiles::Registers registers(rows);
        return every([&](long panel) { tiles::panel(m, panel, a, rows, out, ld, use); });
    }
    tiles::Flush as_tiles_do;
    const Tiles &vectors = TILES[m.format];
    const long blocks = ceil_div(rows, vectors.most);
    every([&](long panel) {
        for (long b = 0; b < blocks; b++) {
            long first = rows * b / blocks, count = rows * (b + 1) / blocks - first;
            vectors.of[count - 1](m, panel, a, first, out, ld, use);
        }
    });
}
