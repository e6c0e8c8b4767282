// A product shared by the threads of a parallel region, with the kernels that this processor has.
#pragma once
#include "company.h"
#include "tiles.h"

// out[rows, N] (+)= x w^T (+ bias), or out[rows, N / 2] of SwiGLU. Called by every thread of a parallel region with the
// same `next`, which begins at 0: threads take panels as they come, so one that the system holds up holds up nobody else.
static void product(const Matrix &m, const Rows &a, long rows, float *out, long ld, Use use,
                    std::atomic<long> &next) {
    const long panels = ceil_div(m.N, PANEL);
    // Less and less at a time, so that all are done at the same time.
    auto every = [&](auto work) {
        const long threads = omp_get_num_threads();
        for (long at = next.load(std::memory_order_relaxed); at < panels;) {
            const long share = (panels - at) / (2 * threads), unit = share > 1 ? share : 1;
            if (!next.compare_exchange_weak(at, at + unit, std::memory_order_relaxed)) continue;
            work(at, at + unit);
            at = next.load(std::memory_order_relaxed);
        }
    };
    // In int8 both ways give the same bits, and one row is little more than reading weights, at which vectors are better.
    if (tiles::take(m.format) && !(m.format == INT8 && rows == 1)) {
        tiles::Registers registers(rows);
        return every([&](long panel, long end) { tiles::panels(m, panel, end, a, rows, out, ld, use); });
    }
    tiles::Flush as_tiles_do;
    const Tiles &vectors = TILES[m.format];
    const long blocks = ceil_div(rows, vectors.most);
    every([&](long panel, long end) {
        if (rows == 1 && vectors.four)
            for (; panel + FOUR <= end; panel += FOUR) vectors.four(m, panel, a, out, use);
        for (; panel < end; panel++)
            for (long b = 0; b < blocks; b++) {
                long first = rows * b / blocks, count = rows * (b + 1) / blocks - first;
                vectors.of[count - 1](m, panel, a, first, out, ld, use);
            }
    });
}
