// Products on processors with matrix tiles (AMX): 32 rows times 32 outputs at once, in int8 and bf16.
//
// The panels of packed.h are what tiles read: 16 steps of K are a tile. Sums of int8 are whole numbers, so they are
// the bits of the vector kernels. Tiles add up bf16 in an order of their own: 32 numbers of K at a time, the even
// ones in a chain and the odd ones in another, then both sums to what is there. So where a build has tiles every bf16
// product is made so, that of one row too, with vectors if the system does not grant the tiles.
#pragma once
#include "amx.h"
#include "packed.h"

namespace tiles {

#if WEFT_TILES

struct Whole {
    using Sum = Ints;
    static inline Floats scaled(Sum sum, const Rows &a, long row, Floats scale) {
        return __builtin_convertvector(sum - 128 * a.sum[row * a.sums], Floats) * a.scale[row] * scale;
    }
    // The intrinsics take the numbers of tiles as literals.
    static inline void first() {
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
    }
    static inline void second() {
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    }
    static inline void first_of_next() { _tile_dpbsud(2, 4, 5); }
    static inline void second_of_next() { _tile_dpbsud(3, 4, 6); }
    // sum += one line of weights times 4 bytes of a row, for `steps` of them.
    static inline Sum chain(Sum sum, const char *w, const char *x, long steps) {
        for (long k = 0; k < steps; k++, w += 128, x += 4) sum = dot_u8s8(sum, lanes(w), word(x));
        return sum;
    }
};
struct Half {
    using Sum = Floats;
    static inline void first_of_next() { _tile_dpbf16ps(2, 4, 5); }
    static inline void second_of_next() { _tile_dpbf16ps(3, 4, 6); }
    static inline Floats scaled(Sum sum, const Rows &, long, Floats) { return sum; }
    static inline void first() {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
    }
    static inline void second() {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    static inline Sum chain(Sum sum, const char *w, const char *x, long steps) {
        __m512 even = _mm512_setzero_ps(), odd = even;
        for (long k = 0; k < steps; k++, w += 128, x += 4) {
            const __m512i pairs = _mm512_loadu_si512(w), both = _mm512_set1_epi32(word(x));
            even = _mm512_fmadd_ps(firsts(pairs), firsts(both), even);
            odd = _mm512_fmadd_ps(seconds(pairs), seconds(both), odd);
        }
        return sum + (Floats)_mm512_add_ps(even, odd);
    }
};

// The sums of up to 32 rows with one panel, [32][32] numbers of 4 bytes. Rows that are not there lie in the
// buffer all the same; what comes of them is not looked at.
template <class Kind, bool TWO, bool FIRST>
static void sums(const char *w, const Rows &a, const char *x, long steps, char *out) {
    const char *below = x + SIDE * a.stride;
    settle(x);
    _tile_zero(0);
    _tile_zero(1);
    if (TWO) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long k = 0; k < steps; k++, w += 2 * STEP * SIDE) {
        if (FIRST)
            for (long line = 0; line < 2 * STEP * SIDE; line += 64) __builtin_prefetch(w + AHEAD + line);
        _tile_loadd(4, x + k * STEP, a.stride);
        _tile_loadd(6, w, 2 * STEP);
        _tile_loadd(7, w + STEP, 2 * STEP);
        Kind::first();
        if (TWO) {
            _tile_loadd(5, below + k * STEP, a.stride);
            Kind::second();
        }
    }
    _tile_stored(0, out, 2 * STEP);
    _tile_stored(1, out + STEP, 2 * STEP);
    if (TWO) {
        _tile_stored(2, out + 2 * STEP * SIDE, 2 * STEP);
        _tile_stored(3, out + 2 * STEP * SIDE + STEP, 2 * STEP);
    }
}

// The same of up to 16 rows with two panels, `apart` bytes from each other: [2][16][32] numbers. Two streams of weights
// bring more from memory than one.
template <class Kind>
static void sums_of_two(const char *w, long apart, const Rows &a, const char *x, long steps, char *out) {
    settle(x);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long k = 0; k < steps; k++, w += 2 * STEP * SIDE) {
        const char *next = w + apart;
        for (long line = 0; line < 2 * STEP * SIDE; line += 64)
            __builtin_prefetch(w + AHEAD + line), __builtin_prefetch(next + AHEAD + line);
        _tile_loadd(4, x + k * STEP, a.stride);
        _tile_loadd(6, w, 2 * STEP);
        _tile_loadd(7, w + STEP, 2 * STEP);
        Kind::first();
        _tile_loadd(5, next, 2 * STEP);
        Kind::first_of_next();
        _tile_loadd(6, next + STEP, 2 * STEP);
        Kind::second_of_next();
    }
    _tile_stored(0, out, 2 * STEP);
    _tile_stored(1, out + STEP, 2 * STEP);
    _tile_stored(2, out + 2 * STEP * SIDE, 2 * STEP);
    _tile_stored(3, out + 2 * STEP * SIDE + STEP, 2 * STEP);
}

// The steps from `begin` on of the same with vectors: all where tiles are not granted, else what is no whole tile.
template <class Kind>
static void chains(const char *w, const Rows &a, const char *x, long begin, long rows, char *out) {
    const long steps = a.used / 4;
    for (long k = begin; k < steps; k += SIDE)
        for (long r = 0; r < rows; r++)
            for (int j = 0; j < 2; j++) {
                char *at = out + (2 * r + j) * STEP;
                const long count = steps - k < SIDE ? steps - k : SIDE;
                const auto sum = k ? load<typename Kind::Sum>(at) : typename Kind::Sum{};
                const auto found = Kind::chain(sum, w + k * 128 + 64 * j, x + r * a.stride + 4 * k, count);
                std::memcpy(at, &found, sizeof found);
            }
}

// 16 outputs of some rows from their sums; as `finished` and `put` of packed.h, with what all rows share in registers.
template <class Kind>
static void finish(const Matrix &m, long output, const Rows &a, long first, long rows, const char *found, float *out,
                   long ld, bool add) {
    using Sum = typename Kind::Sum;
    if (m.N - output < LANES || m.bias) {
        for (long r = 0; r < rows; r++)
            put(m, output, finished(m, a, first + r, output, load<Sum>(found + 2 * r * STEP)), out + r * ld, add);
        return;
    }
    const Floats scale = m.scale ? load<Floats>(m.scale + output) : Floats{};
    auto all = [&](auto more) {
        for (long r = 0; r < rows; r++, out += ld) {
            const Sum sum = load<Sum>(found + 2 * r * STEP);
            const Floats value = more(Kind::scaled(sum, a, first + r, scale), out);
            std::memcpy(out, &value, sizeof value);
        }
    };
    add ? all([](Floats x, const float *at) { return x + load<Floats>(at); }) : all([](Floats x, const float *) { return x; });
}

// 16 outputs of SwiGLU from the sums of some rows.
template <class Kind>
static void gate(const Matrix &m, long panel, const Rows &a, long first, long rows, const char *found, float *out, long ld) {
    using Sum = typename Kind::Sum;
    const float *scales = m.scale ? m.scale + panel * PANEL : nullptr;
    const Floats of_gate = scales ? load<Floats>(scales) : Floats{}, of_value = scales ? load<Floats>(scales + LANES) : Floats{};
    for (long r = 0; r < rows; r++, found += 2 * STEP, out += ld)
        gated(Kind::scaled(load<Sum>(found), a, first + r, of_gate),
              Kind::scaled(load<Sum>(found + STEP), a, first + r, of_value), out);
}

template <class Kind>
static void put_panel(const Matrix &m, long panel, const Rows &a, long first, long rows, const char *found, float *out,
                      long ld, Use use) {
    if (use == GATE) return gate<Kind>(m, panel, a, first, rows, found, out + first * ld + panel * LANES, ld);
    for (int j = 0; j < 2; j++) {
        const long output = panel * PANEL + j * LANES;
        if (output < m.N) finish<Kind>(m, output, a, first, rows, found + j * STEP, out + first * ld + output, ld, use == ADD);
    }
}

template <class Kind>
static void block(const Matrix &m, long panel, const Rows &a, long first, long rows, float *out, long ld, Use use) {
    alignas(64) char found[BLOCK * 2 * STEP];
    const char *w = m.data + panel * (a.used / 4) * 128, *x = a.row(first);
    const long whole = in_use ? a.used / STEP : 0;
    if (whole && rows <= SIDE)
        sums<Kind, false, true>(w, a, x, whole, found);
    else if (whole)
        (first ? sums<Kind, true, false> : sums<Kind, true, true>)(w, a, x, whole, found);
    chains<Kind>(w, a, x, whole * SIDE, rows, found);
    put_panel<Kind>(m, panel, a, first, rows, found, out, ld, use);
}

// Two panels for up to 16 rows.
template <class Kind>
static void two(const Matrix &m, long panel, const Rows &a, long rows, float *out, long ld, Use use) {
    alignas(64) char found[2][SIDE * 2 * STEP];
    const long apart = a.used / 4 * 128, whole = in_use ? a.used / STEP : 0;
    const char *w = m.data + panel * apart, *x = a.row(0);
    if (whole) sums_of_two<Kind>(w, apart, a, x, whole, found[0]);
    for (int p = 0; p < 2; p++) {
        chains<Kind>(w + p * apart, a, x, whole * SIDE, rows, found[p]);
        put_panel<Kind>(m, panel + p, a, 0, rows, found[p], out, ld, use);
    }
}

static inline bool take(long format) { return format == BF16 || (format == INT8 && in_use); }

// As `tile` in packed.h for all rows of the panels from `at` to `end`.
static void panels(const Matrix &m, long at, long end, const Rows &a, long rows, float *out, long ld, Use use) {
    for (; rows <= SIDE && at + 2 <= end; at += 2) (m.format == INT8 ? two<Whole> : two<Half>)(m, at, a, rows, out, ld, use);
    for (; at < end; at++)
        for (long first = 0; first < rows; first += BLOCK) {
            const long count = rows - first < BLOCK ? rows - first : BLOCK;
            (m.format == INT8 ? block<Whole> : block<Half>)(m, at, a, first, count, out, ld, use);
        }
}

#else
struct Flush {};
struct Registers {
    explicit Registers(long) {}
};
static inline bool take(long) { return false; }
static void panels(const Matrix &, long, long, const Rows &, long, float *, long, Use) {}
#endif

}  // namespace tiles
