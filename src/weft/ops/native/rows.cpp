// y = x W^T + b in fp32, the result of a row being the same to the last bit whatever other rows there are.
//
// Libraries choose the order of sums by the number of rows. Here each output has sixteen chains over the inputs,
// added up in one fixed tree; tiles only decide what is done together. x [M, K], w [N, K], y [M, N].
#include <algorithm>
#include <cstring>

#include "numbers.h"

namespace {

constexpr int LANES = 16, BLOCK = 32;
typedef float Vector __attribute__((vector_size(64)));

inline Vector load(const float *x) {
    Vector v;
    std::memcpy(&v, x, 64);
    return v;
}
inline Vector part(const float *x, long count) {
    Vector v = {};
    std::memcpy(&v, x, count * 4);
    return v;
}
__attribute__((noinline)) float total(Vector v) {
    float half[8];
    for (int i = 0; i < 8; i++) half[i] = v[i] + v[i + 8];
    return ((half[0] + half[4]) + (half[2] + half[6])) + ((half[1] + half[5]) + (half[3] + half[7]));
}

template <int MR, int NR>
void tile(const float *x, const float *w, const float *bias, float *y, long K, long N) {
    Vector sum[MR][NR] = {};
    long k = 0;
    for (; k + LANES <= K; k += LANES) {
        Vector right[NR];
#pragma GCC unroll 8
        for (int n = 0; n < NR; n++) right[n] = load(w + n * K + k);
#pragma GCC unroll 8
        for (int m = 0; m < MR; m++) {
            Vector left = load(x + m * K + k);
#pragma GCC unroll 8
            for (int n = 0; n < NR; n++) sum[m][n] += left * right[n];
        }
    }
    if (k < K)
        for (int m = 0; m < MR; m++)
            for (int n = 0; n < NR; n++) sum[m][n] += part(x + m * K + k, K - k) * part(w + n * K + k, K - k);
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NR; n++) y[m * N + n] = total(sum[m][n]) + (bias ? bias[n] : 0.0f);
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
        long end = std::min(block + BLOCK, N), n = block;
        for (; n + 4 <= end; n += 4) columns<4>(x, w + n * K, bias ? bias + n : nullptr, y + n, M, K, N);
        for (; n < end; n++) columns<1>(x, w + n * K, bias ? bias + n : nullptr, y + n, M, K, N);
    }
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
