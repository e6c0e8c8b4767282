// The two products of attention over a bf16 cache, in the order in which matrix tiles (AMX) add: q k^T in chains over
// 32 dimensions, weights times values in chains over 32 keys that begin at multiples of 32, each with the even and
// the odd numbers apart (see tiles.h). Weights are rounded to bf16. Tiles take many
// queries at once and vectors few; both give the same bits.
//
// Keys lie in a block as [D/2][16][2], values as [8][P][2]: two dimensions, or two keys, are a pair.
#pragma once
#include <algorithm>
#include <memory>

#include "amx.h"
#include "numbers.h"

#if WEFT_TILES
namespace pairs {

constexpr int LANES = 16, BLOCK = 16, KEYS = 64, SPAN = 32;  // keys of a tile of the cache, numbers of a chain
constexpr long MOST = 256;                                   // dimensions that the copy of values has room for

static inline __m512i line(const bf16 *at) { return _mm512_loadu_si512(at); }

// s[i][64] = q[i] . k for NQ queries, fp32 [NQ][D] with bf16's values, and NB blocks of keys.
template <int NQ, int NB>
static inline void dots(const float *q, long D, const bf16 *const *keys, const bf16 *const *soon, float *s) {
    __m512 sum[NQ][NB];
    for (int i = 0; i < NQ; i++)
        for (int b = 0; b < NB; b++) sum[i][b] = _mm512_setzero_ps();
    for (long from = 0; from < D; from += SPAN) {
        __m512 even[NQ][NB], odd[NQ][NB];
        for (int i = 0; i < NQ; i++)
            for (int b = 0; b < NB; b++) even[i][b] = odd[i][b] = _mm512_setzero_ps();
        for (long d = from; d < std::min(from + SPAN, D); d += 2) {
#pragma GCC unroll 8
            for (int b = 0; b < NB; b++) {
                const __m512i key = line(keys[b] + d * BLOCK);
                const __m512 first = tiles::firsts(key), second = tiles::seconds(key);
                __builtin_prefetch(soon[b] + d * BLOCK);
#pragma GCC unroll 8
                for (int i = 0; i < NQ; i++) {
                    even[i][b] = _mm512_fmadd_ps(_mm512_set1_ps(q[i * D + d]), first, even[i][b]);
                    odd[i][b] = _mm512_fmadd_ps(_mm512_set1_ps(q[i * D + d + 1]), second, odd[i][b]);
                }
            }
        }
        for (int i = 0; i < NQ; i++)
            for (int b = 0; b < NB; b++) sum[i][b] = _mm512_add_ps(sum[i][b], _mm512_add_ps(even[i][b], odd[i][b]));
    }
    for (int i = 0; i < NQ; i++)
        for (int b = 0; b < NB; b++)
            _mm512_storeu_ps(s + i * KEYS + b * BLOCK, sum[i][b]);
}

// o[i] += sum over the keys [j0, j1) of the tile of s[i][j] * v[j], for NQ queries and NV vectors from `d` on.
template <int NQ, int NV>
static inline void mix(const float *s, const bf16 *const *values, const bf16 *const *soon, long P, int j0, int j1, long d,
                       float *o) {
    for (int from = j0 / SPAN * SPAN; from < j1; from += SPAN) {
        __m512 even[NQ][NV], odd[NQ][NV];
        for (int i = 0; i < NQ; i++)
            for (int n = 0; n < NV; n++) even[i][n] = odd[i][n] = _mm512_setzero_ps();
        for (int j = std::max(from, j0 & ~1); j < std::min(from + SPAN, j1); j += 2) {
            const long place = ((j % BLOCK) / 2 * P + d) * 2;
            const bf16 *at = values[j / BLOCK] + place, *ahead = soon[j / BLOCK] + place;
            // A key that nobody sees may be anything, and is not multiplied by zero.
            const bool left = j >= j0, right = j + 1 < j1;
#pragma GCC unroll 8
            for (int n = 0; n < NV; n++) {
                const __m512i value = line(at + n * LANES * 2);
                __builtin_prefetch(ahead + n * LANES * 2);
                const __m512 first = left ? tiles::firsts(value) : _mm512_setzero_ps();
                const __m512 second = right ? tiles::seconds(value) : _mm512_setzero_ps();
#pragma GCC unroll 8
                for (int i = 0; i < NQ; i++) {
                    even[i][n] = _mm512_fmadd_ps(_mm512_set1_ps(s[i * KEYS + j]), first, even[i][n]);
                    odd[i][n] = _mm512_fmadd_ps(_mm512_set1_ps(s[i * KEYS + j + 1]), second, odd[i][n]);
                }
            }
        }
        for (int i = 0; i < NQ; i++)
            for (int n = 0; n < NV; n++) {
                float *at = o + i * P + d + n * LANES;
                _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), _mm512_add_ps(even[i][n], odd[i][n])));
            }
    }
}

template <int NQ>
static void some_scores(const float *q, long D, const bf16 *const *keys, const bf16 *const *soon,
                        int blocks, float *s) {
    constexpr int NB = NQ > 2 ? 2 : 4;
    int b = 0;
    for (; b + NB <= blocks; b += NB) dots<NQ, NB>(q, D, keys + b, soon + b, s + b * BLOCK);
    for (; b < blocks; b++) dots<NQ, 1>(q, D, keys + b, soon + b, s + b * BLOCK);
}
template <int NQ>
static void some_mixture(const float *s, const bf16 *const *values, const bf16 *const *soon, long P, int j0, int j1,
                         float *o) {
    constexpr int NV = NQ > 2 ? 2 : 4;
    long d = 0;
    for (; d + NV * LANES <= P; d += NV * LANES) mix<NQ, NV>(s, values, soon, P, j0, j1, d, o);
    for (; d < P; d += LANES) mix<NQ, 1>(s, values, soon, P, j0, j1, d, o);
}

// All queries, four at a time. `soon` are blocks that will be needed next.
static void scores(int queries, const float *q, long D, const bf16 *const *keys, const bf16 *const *soon,
                        int blocks, float *s) {
    for (int i = 0; i < queries; i += 4) {
        const float *from = q + i * D;
        float *to = s + i * KEYS;
        switch (queries - i) {
            case 1: some_scores<1>(from, D, keys, soon, blocks, to); break;
            case 2: some_scores<2>(from, D, keys, soon, blocks, to); break;
            case 3: some_scores<3>(from, D, keys, soon, blocks, to); break;
            default: some_scores<4>(from, D, keys, soon, blocks, to);
        }
    }
}
static void mixture(int queries, const float *s, const bf16 *const *values, const bf16 *const *soon, long P, int j0,
                    int j1, float *o) {
    for (int i = 0; i < queries; i += 4) {
        const float *from = s + i * KEYS;
        float *to = o + i * P;
        switch (queries - i) {
            case 1: some_mixture<1>(from, values, soon, P, j0, j1, to); break;
            case 2: some_mixture<2>(from, values, soon, P, j0, j1, to); break;
            case 3: some_mixture<3>(from, values, soon, P, j0, j1, to); break;
            default: some_mixture<4>(from, values, soon, P, j0, j1, to);
        }
    }
}

// Scores of up to 32 queries, bf16 [32][D], by tiles; D in whole chains. Rows that are not there may be anything.
template <bool TWO>
static void tile_scores(const bf16 *q, long D, const bf16 *const *keys, const bf16 *const *soon, int blocks, float *s) {
    constexpr long SIDE = tiles::SIDE, LINE = KEYS * 4;
    tiles::settle(q);
    for (int b = 0; b < blocks; b += 2) {
        const int other = std::min(b + 1, blocks - 1);
        _tile_zero(0);
        _tile_zero(1);
        if (TWO) {
            _tile_zero(2);
            _tile_zero(3);
        }
        for (long d = 0; d < D; d += SPAN) {
            for (long line = 0; line < SPAN * BLOCK; line += 32) {
                __builtin_prefetch(soon[b] + d * BLOCK + line);
                __builtin_prefetch(soon[other] + d * BLOCK + line);
            }
            _tile_loadd(4, q + d, D * 2);
            _tile_loadd(6, keys[b] + d * BLOCK, tiles::STEP);
            _tile_loadd(7, keys[other] + d * BLOCK, tiles::STEP);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (TWO) {
                _tile_loadd(5, q + SIDE * D + d, D * 2);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        float *at = s + b * BLOCK;
        _tile_stored(0, at, LINE);
        if (TWO) _tile_stored(2, at + SIDE * KEYS, LINE);
        if (b + 1 == blocks) break;
        _tile_stored(1, at + BLOCK, LINE);
        if (TWO) _tile_stored(3, at + SIDE * KEYS + BLOCK, LINE);
    }
}

// Where the values of a tile lie together, in lines that are apart by an odd number of 64 bytes.
struct Values {
    static constexpr long LINE = MOST * 2 + 32;
    alignas(64) bf16 at[KEYS / 2 * LINE];

    // Those of the keys [j0, j1), and zeros for the other keys of their chains.
    void gather(const bf16 *const *values, const bf16 *const *soon, long P, int j0, int j1) {
        const int pairs = (j1 + SPAN - 1) / SPAN * SPAN / 2;
        for (int j = 0; j < pairs; j++) {
            const bool left = 2 * j >= j0 && 2 * j < j1, right = 2 * j + 1 >= j0 && 2 * j + 1 < j1;
            const __m512i kept = _mm512_set1_epi32((left ? 0xffff : 0) | (right ? (int)0xffff0000 : 0));
            const long place = j % (BLOCK / 2) * P * 2;
            const bf16 *from = left || right ? values[2 * j / BLOCK] + place : at, *ahead = soon[2 * j / BLOCK] + place;
            for (long d = 0; d < P * 2; d += 32) {
                _mm512_store_si512(at + j * LINE + d, _mm512_and_si512(line(from + d), kept));
                __builtin_prefetch(ahead + d);
            }
        }
    }
};

// o += weights times values for up to 32 queries; weights bf16 [32][64], o fp32 [32][P], P in whole tiles of 16.
template <bool TWO>
static void tile_mixture(const bf16 *weights, const Values &values, long P, int end, float *o) {
    constexpr long SIDE = tiles::SIDE, LINE = Values::LINE * 2;
    tiles::settle(weights);
    for (long d = 0; d < P; d += 2 * LANES) {
        const bool both = d + LANES < P;
        const long next = both ? LANES : 0;
        _tile_loadd(0, o + d, P * 4);
        _tile_loadd(1, o + d + next, P * 4);
        if (TWO) {
            _tile_loadd(2, o + SIDE * P + d, P * 4);
            _tile_loadd(3, o + SIDE * P + d + next, P * 4);
        }
        for (int j = 0; j < end; j += SPAN) {
            const bf16 *from = values.at + j / 2 * Values::LINE + d * 2;
            _tile_loadd(4, weights + j, KEYS * 2);
            _tile_loadd(6, from, LINE);
            _tile_loadd(7, from + next * 2, LINE);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (TWO) {
                _tile_loadd(5, weights + SIDE * KEYS + j, KEYS * 2);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        _tile_stored(0, o + d, P * 4);
        if (both) _tile_stored(1, o + d + LANES, P * 4);
        if (TWO) {
            _tile_stored(2, o + SIDE * P + d, P * 4);
            if (both) _tile_stored(3, o + SIDE * P + d + LANES, P * 4);
        }
    }
}

// What PlainSums of paged.cpp is for other caches.
struct Sums {
    static constexpr int QUERIES = tiles::BLOCK, FEW = 2;  // few are not worth their tiles
    using Thread = tiles::Registers;
    const long D, P;
    const float factor;  // what scores are still to be multiplied by
    bool tiled = false;
    const std::unique_ptr<float[]> query;
    const std::unique_ptr<bf16[]> half, weights;  // queries and weights as tiles take them; not zeroed
    Values values;

    Sums(long D, long P, float scale)
        : D(D), P(P), factor(scale), query(new float[QUERIES * D]), half(new bf16[QUERIES * D]), weights(new bf16[QUERIES * KEYS]) {}

    void begin(int queries) { tiled = tiles::in_use && queries > FEW && D % SPAN == 0 && P <= MOST; }

    void take(const bf16 *row, int i) {
        if (tiled)
            std::memcpy(&half[i * D], row, D * sizeof(bf16));
        else
            for (long d = 0; d < D; d++) query[i * D + d] = widen(row[d]);
    }

    template <class Tile>
    void find_scores(int queries, const Tile &tile, float *s) {
        if (tiled)
            (queries > tiles::SIDE ? tile_scores<true> : tile_scores<false>)(half.get(), D, tile.k, tile.v, tile.blocks, s);
        else
            scores(queries, query.get(), D, tile.k, tile.v, tile.blocks, s);
    }

    // Long before tiles load them: they wait for stores to be through.
    template <class Tile>
    void ready(const Tile &tile, int first, int end) {
        if (tiled) values.gather(tile.v, tile.ahead, P, first, end);
    }

    // 16 weights, where tiles take them or in the place of their scores.
    template <class Vector>
    void keep(Vector found, float *s, long at) {
        const __m256i half = (__m256i)_mm512_cvtneps_pbh((__m512)found);
        if (tiled)
            _mm256_storeu_si256((__m256i *)&weights[at], half);
        else
            _mm512_storeu_si512(s + at, _mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    }

    template <class Tile>
    void mix(int queries, float *s, const Tile &tile, int first, int end, float *o) {
        if (!tiled) return mixture(queries, s, tile.v, tile.ahead, P, first, end, o);
        (queries > tiles::SIDE ? tile_mixture<true> : tile_mixture<false>)(weights.get(), values, P, end, o);
    }

    static void put_key(const bf16 *x, bf16 *block, long place, long D, float *) {
        for (long d = 0; d < D; d += 2) std::memcpy(block + d * BLOCK + 2 * place, x + d, 2 * sizeof(bf16));
    }
    static void put_value(const bf16 *x, bf16 *block, long place, long D, long P, float *) {
        bf16 *to = block + place / 2 * 2 * P;
        const __mmask32 which = place % 2 ? 0xaaaaaaaa : 0x55555555;
        long d = 0;
        for (; d + LANES <= D; d += LANES) {
            const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(x + d)));
            _mm512_mask_storeu_epi16(to + 2 * d, which, _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16)));
        }
        for (; d < D; d++) to[2 * d + place % 2] = x[d];
    }
};

}  // namespace pairs
#endif
