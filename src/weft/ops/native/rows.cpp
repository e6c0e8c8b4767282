// y = x W^T + b in fp32, the result of a row being the same to the last bit whatever other rows there are.
//
// Libraries choose the order of sums by the number of rows. Here each output has sixteen chains over the inputs,
// added up in one fixed tree; tiles only decide what is done together. x [M, K], w [N, K], y [M, N].
#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "numbers.h"
#include "rows_tiles.h"

namespace {

constexpr int LANES = 16;
// The sums of a tile must fit in registers: without vectors of 512 bits the chains are made in halves, eight and eight,
// of smaller tiles.
#if defined(__AVX512F__)
constexpr int WIDTH = 16, COLUMNS = 4, BLOCK = 32;
#else
constexpr int WIDTH = 8, COLUMNS = 3, BLOCK = 48;
#endif
typedef float Vector __attribute__((vector_size(WIDTH * 4)));

inline Vector load(const float *x) {
    Vector v;
    std::memcpy(&v, x, sizeof v);
    return v;
}
inline Vector part(const float *x, long count) {
    Vector v = {};
    std::memcpy(&v, x, count * 4);
    return v;
}
// Rounded once. Left to themselves, compilers avoid that where one sum waits for the other, as in the smallest tiles.
inline Vector fused(Vector a, Vector b, Vector sum) {
#if defined(__AVX512F__)
    return (Vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__FMA__)
    return (Vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
    return sum + a * b;
#endif
}
// The fixed tree: lanes eight apart, then four, two and one. Not inline: compilers may change it from tile to tile.
__attribute__((noinline)) float total(const float *v) {
    typedef float Eight __attribute__((vector_size(32)));
    typedef float Four __attribute__((vector_size(16)));
    Eight low, high;
    std::memcpy(&low, v, 32);
    std::memcpy(&high, v + 8, 32);
    low += high;
    Four left, right;
    std::memcpy(&left, &low, 16);
    std::memcpy(&right, (const char *)&low + 16, 16);
    left += right;
    return (left[0] + left[2]) + (left[1] + left[3]);
}

template <int MR, int NR>
void tile(const float *x, const float *w, const float *bias, float *y, long K, long N) {
    float sums[MR][NR][LANES];
    for (long lane = 0; lane < LANES; lane += WIDTH) {
        Vector sum[MR][NR] = {};
        long k = lane;
        for (; k + LANES - lane <= K; k += LANES) {
            Vector right[NR];
#pragma GCC unroll 8
            for (int n = 0; n < NR; n++) right[n] = load(w + n * K + k);
#pragma GCC unroll 8
            for (int m = 0; m < MR; m++) {
                Vector left = load(x + m * K + k);
#pragma GCC unroll 8
                for (int n = 0; n < NR; n++) sum[m][n] = fused(left, right[n], sum[m][n]);
            }
        }
        if (k < K) {
            long rest = std::min<long>(K - k, WIDTH);
            for (int m = 0; m < MR; m++)
                for (int n = 0; n < NR; n++)
                    sum[m][n] = fused(part(x + m * K + k, rest), part(w + n * K + k, rest), sum[m][n]);
        }
#pragma GCC unroll 8
        for (int m = 0; m < MR; m++)
#pragma GCC unroll 8
            for (int n = 0; n < NR; n++) std::memcpy(&sums[m][n][lane], &sum[m][n], sizeof(Vector));
    }
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NR; n++) y[m * N + n] = total(sums[m][n]) + (bias ? bias[n] : 0.0f);
}

template <int NR>
void columns(const float *x, const float *w, const float *bias, float *y, long M, long K, long N) {
    long m = 0;
    for (; m + 4 <= M; m += 4) tile<4, NR>(x + m * K, w, bias, y + m * N, K, N);
    for (; m < M; m++) tile<1, NR>(x + m * K, w, bias, y + m * N, K, N);
}

}  // namespace

extern "C" void weft_rows_fp32(const float *x, const float *w, const float *bias, float *y, long M, long K, long N) {
#pragma omp parallel for schedule(static) if (M * K * N > 1000000)
    for (long block = 0; block < N; block += BLOCK) {
        long end = std::min<long>(block + BLOCK, N), n = block;
        for (; n + COLUMNS <= end; n += COLUMNS)
            columns<COLUMNS>(x, w + n * K, bias ? bias + n : nullptr, y + n, M, K, N);
        for (; n < end; n++) columns<1>(x, w + n * K, bias ? bias + n : nullptr, y + n, M, K, N);
    }
}

// Products in bf16 are made here where the build has matrix tiles.
extern "C" {
#if WEFT_TILES
int weft_rows_takes_bf16() { return 1; }
void weft_rows_bf16(const bf16 *x, const bf16 *w, const bf16 *bias, bf16 *y, long M, long K, long N) {
    rows::product(x, w, bias, y, M, K, N);
}
#else
int weft_rows_takes_bf16() { return 0; }
#endif
}

namespace {

// gelu(gate) * up with the tanh form of GELU, as gate * sigmoid(2 u). Row by row: what is left over by vectors
// stands in the same columns of every row.
template <typename T>
void geglu(const T *gate, const T *up, T *y, long rows, long width) {
#pragma omp parallel for schedule(static) if (rows * width > 16384)
    for (long r = 0; r < rows; r++) {
        const T *g = gate + r * width, *u = up + r * width;
        T *out = y + r * width;
        for (long i = 0; i < width; i++) {
            float x = widen(g[i]), inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
            narrow(x / (1.0f + fast_exp(-2.0f * inner)) * widen(u[i]), out[i]);
        }
    }
}

}  // namespace

extern "C" {
void weft_geglu_fp32(const float *gate, const float *up, float *y, long rows, long width) {
    geglu(gate, up, y, rows, width);
}
void weft_geglu_bf16(const bf16 *gate, const bf16 *up, bf16 *y, long rows, long width) {
    geglu(gate, up, y, rows, width);
}
}
