// Attention of queries that each see one range of keys, forward and backward, in bf16 with fp32 accumulation.
//
// The scores are kept transposed (keys down, queries across), so that one query is one vector lane: the
// softmax needs no horizontal sums, masks are lane masks, and every product is the same small kernel
//     C[M x 64] += A[M x K] * B[K x 64]
// with A in rows and B in pairs of rows interleaved, which is what the bf16 dot-product instruction eats.
// The recomputation in the backward pass follows FlashAttention (arXiv:2205.14135).
//
// Shapes: q, out [B, S, H, D]; k, v [B, U, G, D]; first, end [B, S]; lse [B, H, S]. D is a multiple of 32.
// Query i sees the keys first[i] <= j < end[i]; one that sees none gets zeros and an lse of -infinity.
#include <immintrin.h>

#include <algorithm>
#include <vector>

#include "numbers.h"

namespace {

constexpr int BLOCK = 64;  // queries across (four vectors) and keys down

using Floats = std::vector<float>;
using Halves = std::vector<bf16>;
using Pairs = std::vector<uint32_t>;

// C[rows x NV*16] (+)= A * B; B holds `pairs` interleaved row pairs, ldb in 32-bit words.
template <int ROWS, int NV>
inline void tile(const bf16 *a, int lda, const uint32_t *b, int ldb, float *c, int ldc, int pairs, bool add) {
    __m512 acc[ROWS][NV];
    #pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        #pragma GCC unroll 8
        for (int v = 0; v < NV; v++) acc[r][v] = add ? _mm512_loadu_ps(c + r * ldc + v * 16) : _mm512_setzero_ps();
    for (int p = 0; p < pairs; p++) {
        __m512i columns[NV];
        #pragma GCC unroll 8
        for (int v = 0; v < NV; v++) columns[v] = _mm512_loadu_si512(b + p * ldb + v * 16);
        #pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            int32_t both;
            std::memcpy(&both, a + r * lda + 2 * p, 4);
            __m512bh left = (__m512bh)_mm512_set1_epi32(both);
            #pragma GCC unroll 8
            for (int v = 0; v < NV; v++) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], left, (__m512bh)columns[v]);
        }
    }
    #pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        #pragma GCC unroll 8
        for (int v = 0; v < NV; v++) _mm512_storeu_ps(c + r * ldc + v * 16, acc[r][v]);
}

template <int NV>
inline void strip(const bf16 *a, int lda, const uint32_t *b, int ldb, float *c, int ldc, int m, int pairs, bool add) {
    int i = 0;
    for (; i + 6 <= m; i += 6) tile<6, NV>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, pairs, add);
    for (; i + 2 <= m; i += 2) tile<2, NV>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, pairs, add);
    for (; i < m; i++) tile<1, NV>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, pairs, add);
}

// The one product of this file: n is a multiple of 32.
void product(const bf16 *a, int lda, const uint32_t *b, int ldb, float *c, int ldc, int m, int n, int pairs, bool add) {
    int j = 0;
    for (; j + 64 <= n; j += 64) strip<4>(a, lda, b + j, ldb, c + j, ldc, m, pairs, add);
    for (; j < n; j += 32) strip<2>(a, lda, b + j, ldb, c + j, ldc, m, pairs, add);
}

// One block of up to 64 rows of a strided matrix, copied together and padded with zeros: rows a power of two
// apart would evict each other from the first-level cache.
struct Rows {
    std::vector<bf16> block;
    int D;
    explicit Rows(int D) : block((long)BLOCK * D), D(D) {}

    const bf16 *gather(const bf16 *x, long stride, int count) {
        for (int t = 0; t < BLOCK; t++) {
            if (t < count)
                std::memcpy(&block[(long)t * D], x + t * stride, D * sizeof(bf16));
            else
                std::memset(&block[(long)t * D], 0, D * sizeof(bf16));
        }
        return block.data();
    }
};

// The layouts below are lists of blocks of 64 positions; each block is contiguous.
// [D/2][64] pairs of neighbouring dimensions, one position a column.
void pack_columns(const bf16 *rows, int D, uint32_t *out) {
    for (int d = 0; d < D / 2; d++)
        for (int t = 0; t < BLOCK; t++) std::memcpy(out + d * BLOCK + t, rows + t * D + 2 * d, 4);
}

// [32][D] neighbouring positions interleaved.
void pack_rows(const bf16 *rows, int D, uint32_t *out) {
    for (int t = 0; t < BLOCK; t += 2)
        for (int d = 0; d < D; d++)
            out[t / 2 * D + d] = (uint32_t)rows[t * D + d] | (uint32_t)rows[(t + 1) * D + d] << 16;
}

// [D][64].
void transpose(const bf16 *rows, int D, bf16 *out) {
    for (int d = 0; d < D; d++)
        for (int t = 0; t < BLOCK; t++) out[d * BLOCK + t] = rows[t * D + d];
}

// The keys that each query of a block sees; queries past the end see none.
struct Sight {
    int32_t first[BLOCK], end[BLOCK];
    // Of the queries that see any: least first key and greatest end. `highest` and `nearest`: greatest first
    // key and least end, out of reach when a query sees none.
    int lowest = INT32_MAX, last = 0, highest = 0, nearest = INT32_MAX;

    Sight(const int32_t *firsts, const int32_t *ends, int i0, int S, int U) {
        for (int i = 0; i < BLOCK; i++) {
            first[i] = i0 + i < S ? std::max(firsts[i0 + i], 0) : 0;
            end[i] = i0 + i < S ? std::min(ends[i0 + i], U) : 0;
            if (first[i] >= end[i]) {
                first[i] = highest = INT32_MAX;
                end[i] = 0;
                continue;
            }
            lowest = std::min(lowest, (int)first[i]), highest = std::max(highest, (int)first[i]);
            last = std::max(last, (int)end[i]), nearest = std::min(nearest, (int)end[i]);
        }
    }
    bool blind() const { return last == 0; }
    // Whether every query of the block sees all keys of [j0, j1).
    bool whole(int j0, int j1) const { return j1 <= nearest && j0 >= highest; }
    // Lanes of vector v (16 queries) that see key j.
    __mmask16 lanes(int v, int j) const {
        __m512i key = _mm512_set1_epi32(j);
        __mmask16 before = _mm512_cmplt_epi32_mask(key, _mm512_loadu_si512(end + v * 16));
        return before & _mm512_cmple_epi32_mask(_mm512_loadu_si512(first + v * 16), key);
    }
};

// The keys that any query of a row sees, from a multiple of the block.
struct Reach {
    int from, to;
    Reach(const int32_t *first, const int32_t *end, int S, int U) : from(U), to(0) {
        for (int i0 = 0; i0 < S; i0 += BLOCK) {
            Sight sight(first, end, i0, S, U);
            from = std::min(from, sight.lowest), to = std::max(to, sight.last);
        }
        from = from / BLOCK * BLOCK;
    }
};

inline __m512 exp16(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-87.0f), x);  // the second operand where one is NaN, which is to show
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

inline __m512i half_bits(__m512 x) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)); }

struct Shape {
    int B, S, U, H, G, D;
    float scale;
    int padded() const { return (U + BLOCK - 1) / BLOCK * BLOCK; }
};

// Softmax of the transposed scores s[keys][64] of one block of queries, in place as interleaved bf16 pairs.
void softmax_block(const Shape &z, const Sight &sight, int from, float *s, uint32_t *pairs, float *lse,
                   float *inverse) {
    __m512 scale = _mm512_set1_ps(z.scale);
    __m512 top[4], sum[4];
    for (int v = 0; v < 4; v++) top[v] = _mm512_set1_ps(-INFINITY), sum[v] = _mm512_setzero_ps();
    for (int j = from; j < sight.last; j++) {
        float *row = s + (long)(j - from) * BLOCK;
        bool whole = sight.whole(j, j + 1);
        for (int v = 0; v < 4; v++) {
            __m512 x = _mm512_mul_ps(_mm512_loadu_ps(row + v * 16), scale);
            if (!whole) x = _mm512_mask_blend_ps(sight.lanes(v, j), _mm512_set1_ps(-INFINITY), x);
            _mm512_storeu_ps(row + v * 16, x);
            top[v] = _mm512_max_ps(top[v], x);
        }
    }
    for (int v = 0; v < 4; v++) {
        // A lane that sees nothing would compute inf - inf.
        __mmask16 blind = _mm512_cmp_ps_mask(top[v], _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ);
        top[v] = _mm512_mask_blend_ps(blind, top[v], _mm512_setzero_ps());
    }
    int count = sight.last - from;
    for (int j = 0; j < count; j += 2)
        for (int v = 0; v < 4; v++) {
            __m512 even = exp16(_mm512_sub_ps(_mm512_loadu_ps(s + (long)j * BLOCK + v * 16), top[v]));
            even = _mm512_maskz_mov_ps(sight.lanes(v, from + j), even);
            __m512 odd = _mm512_setzero_ps();
            if (j + 1 < count) {
                odd = exp16(_mm512_sub_ps(_mm512_loadu_ps(s + (long)(j + 1) * BLOCK + v * 16), top[v]));
                odd = _mm512_maskz_mov_ps(sight.lanes(v, from + j + 1), odd);
            }
            sum[v] = _mm512_add_ps(sum[v], _mm512_add_ps(even, odd));
            __m512i both = _mm512_or_si512(half_bits(even), _mm512_slli_epi32(half_bits(odd), 16));
            _mm512_storeu_si512(pairs + (long)(j / 2) * BLOCK + v * 16, both);
        }
    for (int v = 0; v < 4; v++)
        for (int i = 0; i < 16; i++) {
            float total = sum[v][i];
            inverse[v * 16 + i] = total == 0 ? 0.0f : 1.0f / total;
            lse[v * 16 + i] = total == 0 ? -INFINITY : top[v][i] + std::log(total);
        }
}

struct ForwardBuffers {
    Pairs q, p;
    Halves k, v;
    Floats s, o;
    Rows rows;
    explicit ForwardBuffers(const Shape &z)
        : q((long)z.D / 2 * BLOCK), p((long)z.padded() / 2 * BLOCK), k((long)z.padded() * z.D),
          v((long)z.D * z.padded()), s((long)z.padded() * BLOCK), o((long)z.D * BLOCK), rows(z.D) {}

    void take_keys(const Shape &z, Reach reach, const bf16 *keys, const bf16 *values) {
        for (int j0 = reach.from; j0 < reach.to; j0 += BLOCK) {
            long at = (long)j0 * z.D, from = (long)j0 * z.G * z.D;
            int count = std::min(BLOCK, z.U - j0);
            const bf16 *block = rows.gather(keys + from, (long)z.G * z.D, count);
            std::copy(block, block + (long)BLOCK * z.D, &k[at]);
            transpose(rows.gather(values + from, (long)z.G * z.D, count), z.D, &v[at]);
        }
    }
};

void forward_head(const Shape &z, const bf16 *q, bf16 *out, const int32_t *first, const int32_t *end, float *lse,
                  ForwardBuffers &w) {
    long stride = (long)z.H * z.D;
    float logs[BLOCK], inverse[BLOCK];
    for (int i0 = 0; i0 < z.S; i0 += BLOCK) {
        Sight sight(first, end, i0, z.S, z.U);
        int from = sight.lowest / BLOCK * BLOCK, rows = std::min(BLOCK, z.S - i0);
        if (sight.blind()) {
            for (int i = i0; i < i0 + rows; i++) {
                lse[i] = -INFINITY;
                std::memset(out + i * stride, 0, z.D * sizeof(bf16));
            }
            continue;
        }
        pack_columns(w.rows.gather(q + i0 * stride, stride, rows), z.D, w.q.data());
        product(&w.k[(long)from * z.D], z.D, w.q.data(), BLOCK, w.s.data(), BLOCK, sight.last - from, BLOCK, z.D / 2, false);
        softmax_block(z, sight, from, w.s.data(), w.p.data(), logs, inverse);
        for (int j0 = from; j0 < sight.last; j0 += BLOCK) {
            int pairs = (std::min(BLOCK, sight.last - j0) + 1) / 2;
            const uint32_t *p = &w.p[(long)(j0 - from) / 2 * BLOCK];
            product(&w.v[(long)j0 * z.D], BLOCK, p, BLOCK, w.o.data(), BLOCK, z.D, BLOCK, pairs, j0 > from);
        }
        for (int i = 0; i < rows; i++) {
            lse[i0 + i] = logs[i];
            for (int d = 0; d < z.D; d++) narrow(w.o[(long)d * BLOCK + i] * inverse[i], out[(i0 + i) * stride + d]);
        }
    }
}

struct BackwardBuffers {
    Pairs q_columns, q_rows, g_columns, g_rows, ds_pairs;
    Halves k, v, k_transposed, p, ds;
    Floats delta, lse, s, dp, dq, dk, dv;
    Rows rows;
    explicit BackwardBuffers(const Shape &z) : rows(z.D) {
        long padded = z.padded(), half = (long)z.D / 2 * BLOCK, tile = (long)BLOCK * BLOCK;
        q_columns.resize(half), g_columns.resize(half), q_rows.resize(half), g_rows.resize(half);
        k.resize(padded * z.D), v.resize(padded * z.D), k_transposed.resize(padded * z.D);
        dk.resize(padded * z.D), dv.resize(padded * z.D), dq.resize((long)BLOCK * z.D);
        delta.resize(BLOCK), lse.resize(BLOCK), p.resize(tile), ds.resize(tile), ds_pairs.resize(tile / 2);
        s.resize(tile), dp.resize(tile);
    }

    void take_keys(const Shape &z, Reach reach, const bf16 *keys, const bf16 *values) {
        std::fill(dk.begin(), dk.end(), 0.0f);
        std::fill(dv.begin(), dv.end(), 0.0f);
        for (int j0 = reach.from; j0 < reach.to; j0 += BLOCK) {
            long at = (long)j0 * z.D, from = (long)j0 * z.G * z.D, block = (long)BLOCK * z.D;
            int count = std::min(BLOCK, z.U - j0);
            const bf16 *gathered = rows.gather(keys + from, (long)z.G * z.D, count);
            std::copy(gathered, gathered + block, &k[at]);
            transpose(gathered, z.D, &k_transposed[at]);
            gathered = rows.gather(values + from, (long)z.G * z.D, count);
            std::copy(gathered, gathered + block, &v[at]);
        }
    }

    void take_queries(const Shape &z, const bf16 *q, const bf16 *out, const bf16 *grad, const float *logs, int count) {
        long stride = (long)z.H * z.D;
        const bf16 *gathered = rows.gather(q, stride, count);
        pack_columns(gathered, z.D, q_columns.data());
        pack_rows(gathered, z.D, q_rows.data());
        gathered = rows.gather(grad, stride, count);
        pack_columns(gathered, z.D, g_columns.data());
        pack_rows(gathered, z.D, g_rows.data());
        for (int i = 0; i < BLOCK; i++) {
            float sum = 0.0f;
            for (int d = 0; d < z.D && i < count; d++) sum += widen(out[i * stride + d]) * widen(gathered[i * z.D + d]);
            delta[i] = sum;
            lse[i] = i < count ? logs[i] : INFINITY;
        }
        std::fill(dq.begin(), dq.end(), 0.0f);
    }
};

// From s and dp (transposed, 64 keys x 64 queries): the weights p, and ds = p * (dp - delta) * scale, as
// rows (for the products over queries) and as interleaved pairs (for the product over keys).
void score_gradients(const Shape &z, const Sight &sight, int j0, int count, BackwardBuffers &w) {
    __m512 scale = _mm512_set1_ps(z.scale);
    bool whole = sight.whole(j0, j0 + count);
    for (int v = 0; v < 4; v++) {
        __m512 delta = _mm512_loadu_ps(&w.delta[v * 16]), lse = _mm512_loadu_ps(&w.lse[v * 16]);
        for (int j = 0; j < count; j += 2) {
            __m512i bits[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
            for (int e = 0; e < 2 && j + e < count; e++) {
                long at = (long)(j + e) * BLOCK + v * 16;
                __mmask16 lanes = whole ? 0xffff : sight.lanes(v, j0 + j + e);
                __m512 p = exp16(_mm512_fmsub_ps(_mm512_loadu_ps(&w.s[at]), scale, lse));
                p = _mm512_maskz_mov_ps(lanes, p);
                __m512 d = _mm512_mul_ps(_mm512_mul_ps(p, scale), _mm512_sub_ps(_mm512_loadu_ps(&w.dp[at]), delta));
                d = _mm512_maskz_mov_ps(lanes, d);
                _mm256_storeu_si256((__m256i *)&w.p[at], (__m256i)_mm512_cvtneps_pbh(p));
                __m256i half = (__m256i)_mm512_cvtneps_pbh(d);
                _mm256_storeu_si256((__m256i *)&w.ds[at], half);
                bits[e] = _mm512_cvtepu16_epi32(half);
            }
            __m512i both = _mm512_or_si512(bits[0], _mm512_slli_epi32(bits[1], 16));
            _mm512_storeu_si512(&w.ds_pairs[(long)(j / 2) * BLOCK + v * 16], both);
        }
    }
}

void backward_head(const Shape &z, const bf16 *q, const bf16 *out, const bf16 *g, const int32_t *first,
                   const int32_t *end, const float *lse, bf16 *dq, BackwardBuffers &w) {
    long stride = (long)z.H * z.D;
    int D = z.D;
    for (int i0 = 0; i0 < z.S; i0 += BLOCK) {
        Sight sight(first, end, i0, z.S, z.U);
        int rows = std::min(BLOCK, z.S - i0);
        if (sight.blind()) {
            for (int i = i0; i < i0 + rows; i++) std::memset(dq + i * stride, 0, D * sizeof(bf16));
            continue;
        }
        w.take_queries(z, q + i0 * stride, out + i0 * stride, g + i0 * stride, lse + i0, rows);
        for (int j0 = sight.lowest / BLOCK * BLOCK; j0 < sight.last; j0 += BLOCK) {
            int count = std::min(BLOCK, sight.last - j0);
            long at = (long)j0 * D;
            product(&w.k[at], D, w.q_columns.data(), BLOCK, w.s.data(), BLOCK, count, BLOCK, D / 2, false);
            product(&w.v[at], D, w.g_columns.data(), BLOCK, w.dp.data(), BLOCK, count, BLOCK, D / 2, false);
            score_gradients(z, sight, j0, count, w);
            product(w.p.data(), BLOCK, w.g_rows.data(), D, &w.dv[at], D, count, D, BLOCK / 2, true);
            product(w.ds.data(), BLOCK, w.q_rows.data(), D, &w.dk[at], D, count, D, BLOCK / 2, true);
            product(&w.k_transposed[at], BLOCK, w.ds_pairs.data(), BLOCK, w.dq.data(), BLOCK, D, BLOCK, (count + 1) / 2, true);
        }
        for (int i = 0; i < rows; i++)
            for (int d = 0; d < D; d++) narrow(w.dq[d * BLOCK + i], dq[(i0 + i) * stride + d]);
    }
}

}  // namespace

extern "C" {

void weft_attention_forward(const bf16 *q, const bf16 *k, const bf16 *v, const int32_t *first, const int32_t *end,
                            bf16 *out, float *lse, int B, int S, int U, int H, int G, int D, float scale) {
    Shape z{B, S, U, H, G, D, scale};
#pragma omp parallel
    {
        ForwardBuffers w(z);
#pragma omp for schedule(dynamic)
        for (int task = 0; task < B * G; task++) {
            long b = task / G, g = task % G, keys = (b * U * G + g) * D;
            w.take_keys(z, Reach(first + b * S, end + b * S, S, U), k + keys, v + keys);
            for (long h = g * (H / G); h < (g + 1) * (H / G); h++) {
                long rows = (b * S * H + h) * D;
                forward_head(z, q + rows, out + rows, first + b * S, end + b * S, lse + (b * H + h) * S, w);
            }
        }
    }
}

// `lse` and `out` may be those over more keys than k and v hold: the gradients are then these keys' part.
void weft_attention_backward(const bf16 *q, const bf16 *k, const bf16 *v, const int32_t *first, const int32_t *end,
                             const bf16 *out, const float *lse, const bf16 *grad, bf16 *dq, bf16 *dk, bf16 *dv, int B,
                             int S, int U, int H, int G, int D, float scale) {
    Shape z{B, S, U, H, G, D, scale};
#pragma omp parallel
    {
        BackwardBuffers w(z);
#pragma omp for schedule(dynamic)
        for (int task = 0; task < B * G; task++) {
            long b = task / G, g = task % G, keys = (b * U * G + g) * D, stride = (long)G * D;
            w.take_keys(z, Reach(first + b * S, end + b * S, S, U), k + keys, v + keys);
            for (long h = g * (H / G); h < (g + 1) * (H / G); h++) {
                long rows = (b * S * H + h) * D;
                backward_head(z, q + rows, out + rows, grad + rows, first + b * S, end + b * S, lse + (b * H + h) * S,
                              dq + rows, w);
            }
            for (int t = 0; t < U; t++)
                for (int d = 0; d < D; d++) {
                    narrow(w.dk[(long)t * D + d], dk[keys + t * stride + d]);
                    narrow(w.dv[(long)t * D + d], dv[keys + t * stride + d]);
                }
        }
    }
}
}
