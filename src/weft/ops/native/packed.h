// Products with packed weights: y[M, N] = x[M, K] w[N, K]^T for any M, in fp32, bf16, int8 and int4.
//
// A weight is stored in panels of 32 outputs: for each step of K (4 bytes of a row of x: one fp32, two bf16
// or four int8 numbers) two vectors, whose 16 lanes are outputs. A lane adds up its output's terms in the
// order of K, whatever M and the tile are, so a row's result is bitwise the same alone and among others. Builds for
// processors with matrix tiles add bf16 in another order, that of tiles.h, with the same property.
#pragma once
#include "numbers.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

constexpr long LANES = 16, PANEL = 2 * LANES;
constexpr long AHEAD = 2048;  // bytes of weights that are fetched before they are needed
constexpr long GROUP = 32;  // numbers of K that share a scale in int4

enum Format : long { FP32 = 0, BF16 = 1, INT8 = 2, INT4 = 3 };

// int8: data is w + 128, so unsigned; scale [N]. int4: nibbles w + 8; the scales lie in the data.
struct Matrix {
    const char *data;
    const float *scale, *bias;
    long N, K, format;
};

// Rows of activations in a matrix's format; int8 and int4 both take int8 rows with one scale each.
struct Rows {
    char *data;
    float *scale;
    int32_t *sum;  // of the quantised numbers: one a row for int8, one for each group for int4
    long used, stride, sums;  // bytes of a row that hold numbers, and from one row to the next
    const char *row(long r) const { return data + r * stride; }
};

static inline long ceil_div(long a, long b) { return (a + b - 1) / b; }
template <typename V>
static inline V load(const void *from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
static inline int32_t word(const char *from) {
    int32_t x;
    std::memcpy(&x, from, 4);
    return x;
}

// 16 sums in the registers that the processor has: one of 64 bytes, or two of 32.
#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)
struct FloatSum {
    __m256 a, b;
};
struct IntSum {
    __m256i a, b;
};
static inline Floats whole(FloatSum sum) { return load<Floats>(&sum); }
static inline Ints whole(IntSum sum) { return load<Ints>(&sum); }
static inline IntSum lanes(const char *from) {
    const __m256i *at = (const __m256i *)from;
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
static inline IntSum nibbles(IntSum x, int shift) {
    const __m256i low = _mm256_set1_epi8(15);
    return {_mm256_and_si256(_mm256_srli_epi32(x.a, shift), low), _mm256_and_si256(_mm256_srli_epi32(x.b, shift), low)};
}
static inline IntSum every(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
#else
using FloatSum = Floats;
using IntSum = Ints;
static inline Floats whole(FloatSum sum) { return sum; }
static inline Ints whole(IntSum sum) { return sum; }
static inline IntSum lanes(const char *from) { return load<Ints>(from); }
static inline IntSum nibbles(IntSum x, int shift) { return (x >> shift) & 0x0f0f0f0f; }
static inline IntSum every(int32_t x) { return Ints{} + x; }
#endif

// acc += one step of 16 outputs; `a` holds the row's 4 bytes.
struct DotFp32 {
    using Sum = FloatSum;
    static inline Sum dot(Sum acc, const char *w, int32_t a) {
        float x;
        std::memcpy(&x, &a, 4);
#if defined(__AVX512F__)
        return (Floats)_mm512_fmadd_ps(_mm512_loadu_ps(w), _mm512_set1_ps(x), (__m512)acc);
#elif defined(__AVX2__) && defined(__FMA__)
        const float *from = (const float *)w;
        const __m256 wide = _mm256_set1_ps(x);
        return {_mm256_fmadd_ps(_mm256_loadu_ps(from), wide, acc.a),
                _mm256_fmadd_ps(_mm256_loadu_ps(from + 8), wide, acc.b)};
#else
        return acc + load<Floats>(w) * x;
#endif
    }
};
struct DotBf16 {
    using Sum = FloatSum;
    static inline Sum dot(Sum acc, const char *w, int32_t a) {
#if defined(__AVX512BF16__)
        return (Floats)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_set1_epi32(a));
#else
        int32_t a_low = a << 16, a_high = a & (int32_t)0xffff0000;
        float x, y;
        std::memcpy(&x, &a_low, 4), std::memcpy(&y, &a_high, 4);
#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)
        const __m256 low = _mm256_set1_ps(x), high = _mm256_set1_ps(y);
        const __m256i top = _mm256_set1_epi32((int32_t)0xffff0000);
        __m256i first = _mm256_loadu_si256((const __m256i *)w), second = _mm256_loadu_si256((const __m256i *)w + 1);
        acc.a = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(first, 16)), low, acc.a);
        acc.b = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(second, 16)), low, acc.b);
        acc.a = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(first, top)), high, acc.a);
        acc.b = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(second, top)), high, acc.b);
        return acc;
#else
        Ints pair = load<Ints>(w), low = pair << 16, high = pair & (int32_t)0xffff0000;
        return (acc + (Floats)low * x) + (Floats)high * y;
#endif
#endif
    }
};
// Unsigned weights times signed activations; exact, as |sum| < 255 * 127 * K < 2^31 for K <= 65536.
static inline IntSum dot_u8s8(IntSum acc, IntSum w, int32_t a) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(a));
#elif defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)
    // Bytes 0 and 2 of each lane, then 1 and 3, as pairs of 16 bits: products of bytes would overflow there.
    const __m256i bytes = _mm256_set1_epi32(a), even = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
    const __m256i odd = _mm256_srai_epi16(bytes, 8), low = _mm256_set1_epi16(255);
    auto both = [&](__m256i weight) {
        return _mm256_add_epi32(_mm256_madd_epi16(_mm256_and_si256(weight, low), even),
                                _mm256_madd_epi16(_mm256_srli_epi16(weight, 8), odd));
    };
    return {_mm256_add_epi32(acc.a, both(w.a)), _mm256_add_epi32(acc.b, both(w.b))};
#else
    for (int i = 0; i < 4; i++) acc += ((w >> (8 * i)) & 255) * (int32_t)(int8_t)(a >> (8 * i));
    return acc;
#endif
}
struct DotInt8 {
    using Sum = IntSum;
    static inline Sum dot(Sum acc, const char *w, int32_t a) { return dot_u8s8(acc, lanes(w), a); }
};

static inline Floats finished(const Matrix &, const Rows &, long, long, Floats sum) { return sum; }
static inline Floats finished(const Matrix &m, const Rows &a, long row, long output, Ints sum) {
    Ints centred = sum - 128 * a.sum[row * a.sums];
    return __builtin_convertvector(centred, Floats) * a.scale[row] * load<Floats>(m.scale + output);
}

// What becomes of the 32 results of a panel: outputs, or added to what is there (the residual stream), or 16 gates and
// 16 values of SwiGLU that make 16 outputs.
enum Use { SET, ADD, GATE };

// fast_exp of numbers.h, the same bits: adding 1.5 * 2^23 rounds to a whole number as nearbyint does.
static inline Floats fast_exp(Floats x) {
    constexpr float MAGIC = 12582912.0f;
    Floats clipped = x < -87.0f ? Floats{} - 87.0f : (x > 88.0f ? Floats{} + 88.0f : x);
    Floats n = (clipped * 1.44269504088896341f + MAGIC) - MAGIC;
    Floats r = clipped - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = Floats{} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Floats scale = (Floats)((__builtin_convertvector(n, Ints) + 127) << 23);
    return x != x ? x : p * scale;
}

// SwiGLU: silu(gate) * value.
static inline void gated(Floats gate, Floats value, float *out) {
    const Floats found = gate / (1.0f + fast_exp(-gate)) * value;
    std::memcpy(out, &found, sizeof found);
}

// 16 results: bias, and adding to what is there.
static inline void put(const Matrix &m, long output, Floats value, float *out, bool add) {
    long count = m.N - output;
    if (m.bias) value += load<Floats>(m.bias + output);  // padded as scales are
    if (count >= LANES) {
        if (add) value += load<Floats>(out);
        std::memcpy(out, &value, sizeof value);
        return;
    }
    for (long i = 0; i < count; i++) out[i] = add ? out[i] + value[i] : value[i];
}

// The sums of R rows and a panel to results.
template <class Sum, int R>
static void put_panel(const Matrix &m, long panel, const Rows &a, long first, const Sum (&sum)[2][R], float *out, long ld,
                      Use use) {
    auto value = [&](int j, int r) {
        return finished(m, a, first + r, panel * PANEL + j * LANES, whole(sum[j][r]));
    };
    if (use == GATE) {
        for (int r = 0; r < R; r++) gated(value(0, r), value(1, r), out + (first + r) * ld + panel * LANES);
        return;
    }
    for (int j = 0; j < 2; j++) {
        const long output = panel * PANEL + j * LANES;
        if (output >= m.N) break;
        for (int r = 0; r < R; r++) put(m, output, value(j, r), out + (first + r) * ld + output, use == ADD);
    }
}

template <class Dot, int R>
static void tile(const Matrix &m, long panel, const Rows &a, long first, float *out, long ld, Use use) {
    typename Dot::Sum sum[2][R] = {};
    const long steps = a.used / 4;
    const char *w = m.data + panel * steps * 128, *x = a.row(first);
    for (long k = 0; k < steps; k++, w += 128) {
        __builtin_prefetch(w + AHEAD), __builtin_prefetch(w + AHEAD + 64);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            int32_t bytes = word(x + r * a.stride + 4 * k);
            sum[0][r] = Dot::dot(sum[0][r], w, bytes);
            sum[1][r] = Dot::dot(sum[1][r], w + 64, bytes);
        }
    }
    put_panel(m, panel, a, first, sum, out, ld, use);
}

// One row times FOUR panels side by side, the same bits: where weights come from memory and there is little else to do,
// four streams of them bring more than one (measured: 30 GB/s, where one had 28).
constexpr int FOUR = 4;
template <class Dot>
static void four(const Matrix &m, long panel, const Rows &a, float *out, Use use) {
    typename Dot::Sum sum[FOUR][2][1] = {};
    const long steps = a.used / 4, bytes = steps * 128;
    const char *w = m.data + panel * bytes, *x = a.row(0);
    for (long k = 0; k < steps; k++, w += 128, x += 4)
#pragma GCC unroll 4
        for (int p = 0; p < FOUR; p++) {
            const char *at = w + p * bytes;
            __builtin_prefetch(at + AHEAD), __builtin_prefetch(at + AHEAD + 64);
            sum[p][0][0] = Dot::dot(sum[p][0][0], at, word(x));
            sum[p][1][0] = Dot::dot(sum[p][1][0], at + 64, word(x));
        }
    for (int p = 0; p < FOUR; p++) put_panel(m, panel + p, a, 0, sum[p], out, 0, use);
}

// A group of int4: 32 scales in bf16, then for each of 4 steps two vectors; the low nibbles are the steps
// 0 to 3 of the group, the high ones 4 to 7.
constexpr long INT4_GROUP = 64 + 8 * 64;

template <int R>
static void tile_int4(const Matrix &m, long panel, const Rows &a, long first, float *out, long ld, Use use) {
    const long groups = a.used / GROUP;
    const char *w = m.data + panel * groups * INT4_GROUP, *x = a.row(first);
    Floats total[2][R] = {};
    for (long g = 0; g < groups; g++, w += INT4_GROUP, x += GROUP) {
        for (int line = 0; line < 9; line++) __builtin_prefetch(w + AHEAD + 64 * line);
        IntSum sum[2][R];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) sum[0][r] = sum[1][r] = every(-8 * a.sum[(first + r) * a.sums + g]);
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++)
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++) {
                IntSum pair = lanes(w + 64 + (2 * s + j) * 64), low = nibbles(pair, 0), high = nibbles(pair, 4);
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) {
                    const char *at = x + r * a.stride + 4 * s;
                    sum[j][r] = dot_u8s8(dot_u8s8(sum[j][r], low, word(at)), high, word(at + 16));
                }
            }
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            Floats scale;
            for (int i = 0; i < LANES; i++) scale[i] = widen(((const bf16 *)w)[j * LANES + i]);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) total[j][r] = total[j][r] + __builtin_convertvector(whole(sum[j][r]), Floats) * scale;
        }
    }
    for (int j = 0; j < 2; j++)
        for (int r = 0; r < R; r++) total[j][r] = total[j][r] * a.scale[first + r];
    if (use == GATE) {
        for (int r = 0; r < R; r++) gated(total[0][r], total[1][r], out + (first + r) * ld + panel * LANES);
        return;
    }
    for (int j = 0; j < 2; j++) {
        const long output = panel * PANEL + j * LANES;
        if (output >= m.N) break;
        for (int r = 0; r < R; r++) put(m, output, total[j][r], out + (first + r) * ld + output, use == ADD);
    }
}

using Tile = void (*)(const Matrix &, long, const Rows &, long, float *, long, Use);

// The tiles for 1 to `most` rows: as many as have their sums in registers.
struct Tiles {
    Tile of[12];
    int most;
    void (*four)(const Matrix &, long, const Rows &, float *, Use);  // null: there is none
};
#if defined(__AVX512F__)
template <class Dot>
constexpr Tiles tiles_of() {
    return {{tile<Dot, 1>, tile<Dot, 2>, tile<Dot, 3>, tile<Dot, 4>, tile<Dot, 5>, tile<Dot, 6>, tile<Dot, 7>,
             tile<Dot, 8>, tile<Dot, 9>, tile<Dot, 10>, tile<Dot, 11>, tile<Dot, 12>},
            12,
            four<Dot>};
}
constexpr Tiles INT4_TILES{
    {tile_int4<1>, tile_int4<2>, tile_int4<3>, tile_int4<4>, tile_int4<5>, tile_int4<6>}, 6, nullptr};
#else
template <class Dot>
constexpr Tiles tiles_of() {
    return {{tile<Dot, 1>, tile<Dot, 2>, tile<Dot, 3>}, 3, nullptr};
}
constexpr Tiles INT4_TILES{{tile_int4<1>, tile_int4<2>}, 2, nullptr};
#endif
static const Tiles TILES[] = {tiles_of<DotFp32>(), tiles_of<DotBf16>(), tiles_of<DotInt8>(), INT4_TILES};
