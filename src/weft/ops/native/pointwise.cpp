// Row-wise kernels that PyTorch would run as many passes over memory: RMSNorm, rotary positions with the
// query/key norm, SwiGLU and the softmax cross entropy. Each comes for bf16 and fp32 data (suffix _bf16,
// _fp32); sums and weights are fp32. Reductions over rows are made per thread in a fixed order, so a result
// depends on the number of threads only.
#include <omp.h>

#include <algorithm>
#include <vector>

#include "numbers.h"

namespace {

constexpr long SMALL = 16384;  // numbers below which waking other threads costs more than they save

// Rows [first, last) of this thread: a static split, the same on every call.
struct Share {
    long first, last;
    explicit Share(long rows) {
        long threads = omp_get_num_threads(), me = omp_get_thread_num();
        first = rows * me / threads, last = rows * (me + 1) / threads;
    }
};

// Per-thread rows of partial sums, added up in the order of the threads.
struct Partials {
    long width;
    std::vector<float> sums;
    explicit Partials(long width) : width(width), sums(width * omp_get_max_threads(), 0.0f) {}
    float *mine() { return &sums[width * omp_get_thread_num()]; }
    void total(float *out) const {
        std::fill(out, out + width, 0.0f);
        for (size_t i = 0; i < sums.size(); i++) out[i % width] += sums[i];
    }
};

template <typename T>
void rms_norm_forward(const T *x, const float *weight, T *y, float *inverse, long rows, long D, float eps) {
#pragma omp parallel if (rows * D > SMALL)
    {
        Share share(rows);
        for (long r = share.first; r < share.last; r++) {
            const T *in = x + r * D;
            T *out = y + r * D;
            float square = 0.0f;
            for (long d = 0; d < D; d++) square += widen(in[d]) * widen(in[d]);
            float scale = 1.0f / std::sqrt(square / D + eps);
            inverse[r] = scale;
            for (long d = 0; d < D; d++) narrow(widen(in[d]) * scale * weight[d], out[d]);
        }
    }
}

template <typename T>
void rms_norm_backward(const T *x, const float *weight, const float *inverse, const T *grad, T *dx, float *dweight,
                       long rows, long D) {
    Partials partials(D);
#pragma omp parallel if (rows * D > SMALL)
    {
        Share share(rows);
        float *dw = partials.mine();
        for (long r = share.first; r < share.last; r++) {
            const T *in = x + r * D, *g = grad + r * D;
            T *out = dx + r * D;
            float scale = inverse[r], dot = 0.0f;
            for (long d = 0; d < D; d++) {
                float product = widen(g[d]) * widen(in[d]) * scale;
                dw[d] += product;
                dot += product * weight[d];
            }
            dot *= scale / D;
            for (long d = 0; d < D; d++) narrow((widen(g[d]) * weight[d] - dot * widen(in[d])) * scale, out[d]);
        }
    }
    partials.total(dweight);
}

// y = rotate(norm(x) * weight); without a weight only the rotation. x [rows, H, D], cos and sin [rows, D/2].
template <typename T>
void rotary_forward(const T *x, const float *weight, const float *cos, const float *sin, T *y, float *inverse,
                    long rows, long H, long D, float eps) {
    long half = D / 2;
#pragma omp parallel if (rows * H * D > SMALL)
    {
        Share share(rows);
        for (long r = share.first; r < share.last; r++) {
            const float *c = cos + r * half, *s = sin + r * half;
            for (long h = 0; h < H; h++) {
                const T *in = x + (r * H + h) * D;
                T *out = y + (r * H + h) * D;
                float scale = 1.0f;
                if (weight) {
                    float square = 0.0f;
                    for (long d = 0; d < D; d++) square += widen(in[d]) * widen(in[d]);
                    scale = 1.0f / std::sqrt(square / D + eps);
                    inverse[r * H + h] = scale;
                }
                for (long d = 0; d < half; d++) {
                    float a = widen(in[d]) * scale, b = widen(in[d + half]) * scale;
                    if (weight) a *= weight[d], b *= weight[d + half];
                    narrow(a * c[d] - b * s[d], out[d]);
                    narrow(b * c[d] + a * s[d], out[d + half]);
                }
            }
        }
    }
}

template <typename T>
void rotary_backward(const T *x, const float *weight, const float *cos, const float *sin, const float *inverse,
                     const T *grad, T *dx, float *dweight, long rows, long H, long D) {
    long half = D / 2;
    Partials partials(weight ? D : 1);
#pragma omp parallel if (rows * H * D > SMALL)
    {
        Share share(rows);
        float *dw = partials.mine();
        std::vector<float> turned(D);
        for (long r = share.first; r < share.last; r++) {
            const float *c = cos + r * half, *s = sin + r * half;
            for (long h = 0; h < H; h++) {
                const T *in = x + (r * H + h) * D, *g = grad + (r * H + h) * D;
                T *out = dx + (r * H + h) * D;
                float *t = turned.data();
                for (long d = 0; d < half; d++) {
                    float a = widen(g[d]), b = widen(g[d + half]);
                    t[d] = a * c[d] + b * s[d];
                    t[d + half] = b * c[d] - a * s[d];
                }
                if (!weight) {
                    for (long d = 0; d < D; d++) narrow(t[d], out[d]);
                    continue;
                }
                float scale = inverse[r * H + h], dot = 0.0f;
                for (long d = 0; d < D; d++) {
                    float product = t[d] * widen(in[d]) * scale;
                    dw[d] += product;
                    dot += product * weight[d];
                }
                dot *= scale / D;
                for (long d = 0; d < D; d++) narrow((t[d] * weight[d] - dot * widen(in[d])) * scale, out[d]);
            }
        }
    }
    if (weight) partials.total(dweight);
}

template <typename T>
void swiglu_forward(const T *gate, const T *up, T *y, long count) {
#pragma omp parallel if (count > SMALL)
    {
        Share share(count);
        for (long i = share.first; i < share.last; i++) {
            float g = widen(gate[i]);
            narrow(g / (1.0f + fast_exp(-g)) * widen(up[i]), y[i]);
        }
    }
}

template <typename T>
void swiglu_backward(const T *gate, const T *up, const T *grad, T *dgate, T *dup, long count) {
#pragma omp parallel if (count > SMALL)
    {
        Share share(count);
        for (long i = share.first; i < share.last; i++) {
            float g = widen(gate[i]), u = widen(up[i]), d = widen(grad[i]);
            float sigmoid = 1.0f / (1.0f + fast_exp(-g));
            narrow(d * g * sigmoid, dup[i]);
            narrow(d * u * sigmoid * (1.0f + g * (1.0f - sigmoid)), dgate[i]);
        }
    }
}

// Loss of each row, and the logits replaced by their gradient times `scale`; target < 0 carries no loss. Nothing is
// done, and the answer is 1, where a target is none of V.
template <typename T>
int cross_entropy(T *logits, const int64_t *targets, float *loss, long rows, long V, float scale) {
    for (long r = 0; r < rows; r++)
        if (targets[r] >= V) return 1;
#pragma omp parallel if (rows * V > SMALL)
    {
        Share share(rows);
        std::vector<float> buffer(V);
        for (long r = share.first; r < share.last; r++) {
            T *row = logits + r * V;
            if (targets[r] < 0) {
                loss[r] = 0.0f;
                std::fill(row, row + V, T(0));
                continue;
            }
            float *e = buffer.data(), top = -INFINITY, sum = 0.0f;
            for (long i = 0; i < V; i++) {
                e[i] = widen(row[i]);
                top = e[i] > top ? e[i] : top;
            }
            float right = e[targets[r]];
            for (long i = 0; i < V; i++) {
                e[i] = fast_exp(e[i] - top);
                sum += e[i];
            }
            loss[r] = std::log(sum) + top - right;
            float factor = scale / sum;
            for (long i = 0; i < V; i++) narrow(e[i] * factor, row[i]);
            narrow(e[targets[r]] * factor - scale, row[targets[r]]);
        }
    }
    return 0;
}

}  // namespace

#define KERNELS(T, SUFFIX)                                                                                           \
    void weft_rms_norm_forward_##SUFFIX(const T *x, const float *w, T *y, float *inv, long n, long D, float eps) {   \
        rms_norm_forward(x, w, y, inv, n, D, eps);                                                                   \
    }                                                                                                                \
    void weft_rms_norm_backward_##SUFFIX(const T *x, const float *w, const float *inv, const T *g, T *dx, float *dw, \
                                         long n, long D) {                                                           \
        rms_norm_backward(x, w, inv, g, dx, dw, n, D);                                                               \
    }                                                                                                                \
    void weft_rotary_forward_##SUFFIX(const T *x, const float *w, const float *c, const float *s, T *y, float *inv,  \
                                      long n, long H, long D, float eps) {                                           \
        rotary_forward(x, w, c, s, y, inv, n, H, D, eps);                                                            \
    }                                                                                                                \
    void weft_rotary_backward_##SUFFIX(const T *x, const float *w, const float *c, const float *s, const float *inv, \
                                       const T *g, T *dx, float *dw, long n, long H, long D) {                       \
        rotary_backward(x, w, c, s, inv, g, dx, dw, n, H, D);                                                        \
    }                                                                                                                \
    void weft_swiglu_forward_##SUFFIX(const T *gate, const T *up, T *y, long count) {                                \
        swiglu_forward(gate, up, y, count);                                                                          \
    }                                                                                                                \
    void weft_swiglu_backward_##SUFFIX(const T *gate, const T *up, const T *g, T *dgate, T *dup, long count) {       \
        swiglu_backward(gate, up, g, dgate, dup, count);                                                             \
    }                                                                                                                \
    int weft_cross_entropy_##SUFFIX(T *logits, const int64_t *targets, float *loss, long n, long V, float scale) {   \
        return cross_entropy(logits, targets, loss, n, V, scale);                                                    \
    }

extern "C" {
KERNELS(bf16, bf16)
KERNELS(float, fp32)
}
