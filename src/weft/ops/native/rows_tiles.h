// y = x W^T + b in bf16 on processors with matrix tiles (AMX), the result of a row being the same to the last bit
// whatever other rows there are. Sums are made in the tiles' order: 32 inputs at a time, even and odd ones in chains of
// their own (see tiles.h). x [M, K], w [N, K], y [M, N], all bf16.
//
// Weights are read as they lie, so a tile of them has outputs as lines and the product is y^T: what must be in pairs is
// x, which is small.
#pragma once
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "amx.h"
#include "numbers.h"

#if WEFT_TILES
namespace rows {

constexpr long SIDE = tiles::SIDE, SPAN = 32, LINE = 64;  // outputs or rows of a tile, inputs and bytes of its line

// The rows of x as tiles read them: for each 16 of them and each 2 inputs a line of 16 pairs. What lacks is zeros.
struct Pairs {
    long chunks;
    std::vector<uint32_t> at;

    Pairs(const bf16 *x, long M, long K) : chunks((K + SPAN - 1) / SPAN), at((M + SIDE - 1) / SIDE * chunks * SIDE * SIDE) {
        for (long m = 0; m < M; m++)
            for (long k = 0; k < K; k += 2) {
                bf16 pair[2] = {x[m * K + k], k + 1 < K ? x[m * K + k + 1] : bf16(0)};
                std::memcpy(&at[(m / SIDE * chunks * SIDE + k / 2) * SIDE + m % SIDE], pair, 4);
            }
    }
    const uint32_t *tile(long m, long chunk) const { return &at[(m / SIDE * chunks + chunk) * SIDE * SIDE]; }
};

// 16 outputs of a row from sums [16 outputs][16 rows].
inline void put(const float *sums, long row, const bf16 *bias, long count, bf16 *y) {
    const __m512i lines = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(SIDE));
    __m512 sum = _mm512_i32gather_ps(lines, sums + row, 4);
    const __mmask16 there = (1u << count) - 1;
    if (bias) {
        const __m256i b = _mm256_maskz_loadu_epi16(there, bias);
        sum = _mm512_add_ps(sum, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16)));
    }
    _mm256_mask_storeu_epi16(y, there, (__m256i)_mm512_cvtneps_pbh(sum));
}

// The line of 32 weights that begins with input k of output n; what lacks is zeros.
inline void line_of(const bf16 *w, long N, long K, long n, long k, bf16 *line) {
    const long count = n < N ? std::min(SPAN, K - k) : 0;
    std::copy(w + (count ? n * K + k : 0), w + (count ? n * K + k : 0) + count, line);
    std::fill(line + count, line + SPAN, bf16(0));
}

// Sums of 16 outputs with 16 or 32 rows, [2][16 outputs][16 rows].
template <bool TWO>
void with_tiles(const bf16 *w, const Pairs &x, long N, long K, long n, long m, float *sums) {
    alignas(64) bf16 edge[SIDE * SPAN];
    tiles::settle(x.at.data());
    _tile_zero(0);
    if (TWO) _tile_zero(1);
    for (long chunk = 0; chunk < x.chunks; chunk++) {
        const long k = chunk * SPAN;
        if (n + SIDE <= N && k + SPAN <= K)
            _tile_loadd(4, w + n * K + k, K * sizeof(bf16));
        else {
            for (long i = 0; i < SIDE; i++) line_of(w, N, K, n + i, k, edge + i * SPAN);
            tiles::settle(edge);
            _tile_loadd(4, edge, LINE);
        }
        _tile_loadd(6, x.tile(m, chunk), LINE);
        _tile_dpbf16ps(0, 4, 6);
        if (TWO) {
            _tile_loadd(7, x.tile(m + SIDE, chunk), LINE);
            _tile_dpbf16ps(1, 4, 7);
        }
    }
    _tile_stored(0, sums, LINE);
    if (TWO) _tile_stored(1, sums + SIDE * SIDE, LINE);
}

// The same where the system does not grant the tiles: a vector is 16 rows.
inline void with_vectors(const bf16 *w, const Pairs &x, long N, long K, long n, long m, float *sums) {
    alignas(64) bf16 line[SPAN];
    for (long i = 0; i < SIDE; i++) {
        __m512 sum = _mm512_setzero_ps();
        for (long chunk = 0; chunk < x.chunks; chunk++) {
            line_of(w, N, K, n + i, chunk * SPAN, line);
            __m512 even = _mm512_setzero_ps(), odd = even;
            for (long k = 0; k < SPAN; k += 2) {
                const __m512i pairs = _mm512_loadu_si512(x.tile(m, chunk) + k / 2 * SIDE);
                even = _mm512_fmadd_ps(tiles::firsts(pairs), _mm512_set1_ps(widen(line[k])), even);
                odd = _mm512_fmadd_ps(tiles::seconds(pairs), _mm512_set1_ps(widen(line[k + 1])), odd);
            }
            sum = _mm512_add_ps(sum, _mm512_add_ps(even, odd));
        }
        _mm512_storeu_ps(sums + i * SIDE, sum);
    }
}

inline void product(const bf16 *x, const bf16 *w, const bf16 *bias, bf16 *y, long M, long K, long N) {
    const Pairs pairs(x, M, K);
#pragma omp parallel if (M * K * N > 1000000)
    {
        tiles::Registers registers;
        alignas(64) float sums[2 * SIDE * SIDE];
#pragma omp for schedule(static)
        for (long n = 0; n < N; n += SIDE)
            for (long m = 0; m < M; m += 2 * SIDE) {
                const bool two = m + SIDE < M;
                if (tiles::in_use)
                    (two ? with_tiles<true> : with_tiles<false>)(w, pairs, N, K, n, m, sums);
                else
                    for (int half = 0; half <= two; half++)
                        with_vectors(w, pairs, N, K, n, m + half * SIDE, sums + half * SIDE * SIDE);
                for (long r = m; r < std::min(m + 2 * SIDE, M); r++)
                    put(sums + (r - m) / SIDE * SIDE * SIDE, (r - m) % SIDE, bias ? bias + n : nullptr,
                        std::min(SIDE, N - n), y + r * N + n);
            }
    }
}

}  // namespace rows
#endif
