// A decoder's step between two attentions in one call, or all of it, from tokens to scores: matrix products,
// norms, rotary positions, SwiGLU and residuals, with the residual stream in fp32. Threads meet at barriers
// inside one parallel region.
#include <algorithm>
#include <cmath>

#include "product.h"

namespace {

struct Layer {
    Matrix qkv, o, gate_up, down;
    const float *attention_norm, *feed_norm, *q_norm, *k_norm;  // q_norm and k_norm may be null
    bool sparse() const { return !gate_up.data; }
};

struct Decoder {
    const Layer *layers;
    const float *final_norm;
    // Buffers of `chunk` rows: `wide` numbers each, activations, their scales and sums.
    float *wide;
    char *activations;
    float *scales;
    int32_t *sums;
    long depth, width, heads, groups, head_size, chunk, wide_size, row_bytes, row_sums, cache_bf16;
    float eps;
};

// Bytes from one row to the next: an odd number of lines, or the same column of all rows would share a few places
// of the cache.
long apart(long bytes) { return (bytes + 63) / 64 * 64 | 64; }

Rows rows_for(const Decoder &d, const Matrix &m) {
    static const long sizes[] = {4, 2, 1, 1}, multiples[] = {1, 2, 4, GROUP};
    long K = ceil_div(m.K, multiples[m.format]) * multiples[m.format];
    const long used = K * sizes[m.format];
    return {d.activations, d.scales, d.sums, used, apart(used), m.format == INT4 ? K / GROUP : 1};
}

float total(Floats lanes) {
    float sum = 0.0f;
    for (long l = 0; l < LANES; l++) sum += lanes[l];
    return sum;
}

__attribute__((noinline)) Floats rest(const float *x, long n) {
    Floats v{};
    for (long l = 0; l < n; l++) v[l] = x[l];
    return v;
}

typedef int8_t Bytes __attribute__((vector_size(LANES)));

// n numbers times `inverse`, which makes the largest 127, rounded to even; their sum.
int32_t whole_numbers(const float *x, long n, float inverse, int8_t *q) {
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    Ints sum{};
    auto some = [&](Floats v) {
        const Floats near = (v * inverse + MAGIC) - MAGIC;
        const Ints whole = __builtin_convertvector(near, Ints);
        sum += whole;
        return __builtin_convertvector(whole, Bytes);
    };
    long i = 0;
    for (; i + LANES <= n; i += LANES) {
        const Bytes found = some(load<Floats>(x + i));
        std::memcpy(q + i, &found, LANES);
    }
    if (i < n) {
        const Bytes found = some(rest(x + i, n - i));
        std::memcpy(q + i, &found, n - i);
    }
    int32_t all = 0;
    for (long l = 0; l < LANES; l++) all += sum[l];
    return all;
}

// One row of n fp32 numbers in the format of `m`. An infinity or a NaN makes the whole row NaN.
__attribute__((noinline)) void encode(const Matrix &m, const float *x, const Rows &a, long r) {
    const long n = m.K;
    char *out = a.data + r * a.stride;
    if (m.format == FP32) {
        std::memcpy(out, x, n * 4);
    } else if (m.format == BF16) {
        for (long i = 0; i < n; i++) narrow(x[i], ((bf16 *)out)[i]);
        std::memset(out + n * 2, 0, a.used - n * 2);
    } else {
        Ints largest{};  // as bits, which are in order where there is no sign; those of no number come last
        for (long i = 0; i < n; i += LANES) {
            Floats v = i + LANES <= n ? load<Floats>(x + i) : rest(x + i, n - i);
            const Ints size = (Ints)v & 0x7fffffff;
            largest = size > largest ? size : largest;
        }
        int32_t bits = 0;
        for (long l = 0; l < LANES; l++) bits = std::max(bits, largest[l]);
        float most;
        std::memcpy(&most, &bits, 4);
        const bool sound = most < INFINITY;
        const float inverse = most > 4e-37f && sound ? 127.0f / most : 0.0f;  // of less it would be infinite
        a.scale[r] = sound ? most / 127.0f : NAN;
        const int32_t sum = whole_numbers(x, n, inverse, (int8_t *)out);
        std::memset(out + n, 0, a.used - n);
        a.sum[r * a.sums] = sum;
        for (long g = 0; a.sums > 1 && g < a.sums; g++) {
            int32_t part = 0;
            for (long i = g * GROUP; i < (g + 1) * GROUP; i++) part += ((int8_t *)out)[i];
            a.sum[r * a.sums + g] = part;
        }
    }
}

__attribute__((noinline)) float inverse_rms(const float *x, long n, float eps) {
    Floats square{};
    for (long i = 0; i < n; i += LANES) {
        Floats v = i + LANES <= n ? load<Floats>(x + i) : rest(x + i, n - i);
        square += v * v;
    }
    return 1.0f / std::sqrt(total(square) / n + eps);
}

__attribute__((noinline)) void norm(const float *x, const float *weight, float *y, long n, float eps) {
    float scale = inverse_rms(x, n, eps);
    for (long i = 0; i < n; i++) y[i] = x[i] * scale * weight[i];
}

// Heads of one row: the optional norm of each, then the turn of the pairs (i, i + D/2).
template <typename T>
__attribute__((noinline)) void place(float *x, const float *weight, const float *cos, const float *sin, T *y,
                                     long heads, long D, float eps) {
    const long half = D / 2;
    for (long h = 0; h < heads; h++, x += D, y += D) {
        if (weight) norm(x, weight, x, D, eps);
        for (long i = 0; i < half; i++) {
            narrow(x[i] * cos[i] - x[i + half] * sin[i], y[i]);
            narrow(x[i + half] * cos[i] + x[i] * sin[i], y[i + half]);
        }
    }
}

__attribute__((noinline)) void swiglu(float *gate, const float *up, long n) {
    for (long i = 0; i < n; i++) gate[i] = gate[i] / (1.0f + fast_exp(-gate[i])) * up[i];
}

template <typename T>
__attribute__((noinline)) void widen_row(const T *x, float *y, long n) {
    for (long i = 0; i < n; i++) y[i] = widen(x[i]);
}

template <typename T>
struct Step {
    const Decoder &d;
    float *x;          // [rows, width], the residual stream
    const T *mixed;    // [rows, heads, head size], attention's answer
    T *q, *k, *v;      // what the next attention gets
    const float *cos, *sin;
    float *hidden;     // [rows, width], normed: after the last layer, or for a sparse feed-forward
    Turn turn;

    float *wide(long r) const { return d.wide + r * d.wide_size; }

    void multiply(const Matrix &m, const Rows &a, long count, float *out, long ld, Use use) {
        std::atomic<long> &next = turn.take();
        turn.meet();
        product(m, a, count, out, ld, use, next);
        turn.meet();
    }

    // Attention's output matrix and the feed-forward, each with its residual.
    void second_half(const Layer &layer, long begin, long count) {
        Share mine(count);
        Rows a = rows_for(d, layer.o);
        for (long r = mine.first; r < mine.last; r++) {
            widen_row(mixed + (begin + r) * layer.o.K, wide(r), layer.o.K);
            encode(layer.o, wide(r), a, r);
        }
        multiply(layer.o, a, count, x + begin * d.width, d.width, ADD);
        if (layer.sparse()) {
            for (long r = begin + mine.first; r < begin + mine.last; r++)
                norm(x + r * d.width, layer.feed_norm, hidden + r * d.width, d.width, d.eps);
            return;
        }
        a = rows_for(d, layer.gate_up);
        for (long r = mine.first; r < mine.last; r++) {
            norm(x + (begin + r) * d.width, layer.feed_norm, wide(r), d.width, d.eps);
            encode(layer.gate_up, wide(r), a, r);
        }
        feed(layer.gate_up, layer.down, count, x + begin * d.width, ADD);
    }

    // SwiGLU's products over the activations that the caller has encoded.
    void feed(const Matrix &gate_up, const Matrix &down, long count, float *out, Use use) {
        // Gates and values stand by sixteen in turn (see step.py), or the gates first.
        const bool in_turn = gate_up.N % PANEL == 0;
        multiply(gate_up, rows_for(d, gate_up), count, d.wide, d.wide_size, in_turn ? GATE : SET);
        Share mine(count);
        Rows a = rows_for(d, down);
        for (long r = mine.first; r < mine.last; r++) {
            if (!in_turn) swiglu(wide(r), wide(r) + down.K, down.K);
            encode(down, wide(r), a, r);
        }
        multiply(down, a, count, out, d.width, use);
    }

    // Queries, keys and values of a layer.
    void first_half(const Layer &layer, long begin, long count) {
        Share mine(count);
        Rows a = rows_for(d, layer.qkv);
        for (long r = mine.first; r < mine.last; r++) {
            norm(x + (begin + r) * d.width, layer.attention_norm, wide(r), d.width, d.eps);
            encode(layer.qkv, wide(r), a, r);
        }
        multiply(layer.qkv, a, count, d.wide, d.wide_size, SET);
        const long Q = d.heads * d.head_size, K = d.groups * d.head_size, half = d.head_size / 2;
        for (long r = mine.first; r < mine.last; r++) {
            const long at = begin + r;
            float *row = wide(r);
            place(row, layer.q_norm, cos + at * half, sin + at * half, q + at * Q, d.heads, d.head_size, d.eps);
            place(row + Q, layer.k_norm, cos + at * half, sin + at * half, k + at * K, d.groups, d.head_size, d.eps);
            for (long i = 0; i < K; i++) narrow(row[Q + K + i], v[at * K + i]);
        }
    }

    void run(long done, long next, long rows) {
        for (long begin = 0; begin < rows; begin += d.chunk) {
            long count = std::min(d.chunk, rows - begin);
            if (done >= 0) second_half(d.layers[done], begin, count);
            if (next >= 0 && next < d.depth) first_half(d.layers[next], begin, count);
            if (next == d.depth) {
                Share mine(count);
                for (long r = begin + mine.first; r < begin + mine.last; r++)
                    norm(x + r * d.width, d.final_norm, hidden + r * d.width, d.width, d.eps);
            }
            // A last, smaller chunk deals its rows out differently, and the buffers are shared.
            turn.meet();
        }
    }
};

template <typename T>
void step(const Decoder &d, long done, long next, long rows, float *x, const void *mixed, void *q, void *k,
          void *v, const float *cos, const float *sin, float *hidden) {
    Company company;
#pragma omp parallel
    Step<T>{d, x, (const T *)mixed, (T *)q, (T *)k, (T *)v, cos, sin, hidden, Turn{company}}.run(done, next, rows);
}

// out[count, N] = x w^T for rows of fp32 x, in chunks: the first `count`, or those that `which` names. Called by every
// thread of a region.
void multiply(const Decoder &d, const Matrix &m, const float *x, const int32_t *which, long count, float *out, Turn &turn) {
    Rows a = rows_for(d, m);
    for (long begin = 0; begin < count; begin += d.chunk) {
        long some = std::min(d.chunk, count - begin);
        Share mine(some);
        for (long r = mine.first; r < mine.last; r++) encode(m, x + (which ? which[begin + r] : begin + r) * m.K, a, r);
        std::atomic<long> &next = turn.take();
        turn.meet();
        product(m, a, some, out + begin * m.N, m.N, SET, next);
        turn.meet();
    }
}

// Attention of another library (paged.cpp) over its cache and the rows of its step; every thread of a region calls it.
struct Attention {
    void (*attend)(const void *cache, const void *step, int layer, const void *q, const void *k, const void *v,
                   void *out, Turn *turn);
    const void *cache, *step;
};

// What a whole step takes, and its buffers of `rows` rows.
struct Whole {
    const Matrix *output;
    const void *embedding;         // [vocabulary, width] in the cache's dtype
    const float *angles;           // [positions, head size]: the cosines, then the sines
    const int64_t *tokens;         // [rows]
    const int32_t *positions;      // [rows]
    const int32_t *wanted;         // [count]: rows whose scores are wanted
    float *x, *cos, *sin, *hidden;
    void *q, *k, *v, *mixed;
    float *scores;                 // [count, vocabulary]
    long rows, count;
    Attention attention;
};

// The residual stream's first content and the angles of each row.
template <typename T>
void embed(const Decoder &d, const Whole &w) {
    const long half = d.head_size / 2;
    Share mine(w.rows);
    for (long r = mine.first; r < mine.last; r++) {
        widen_row((const T *)w.embedding + w.tokens[r] * d.width, w.x + r * d.width, d.width);
        const float *angle = w.angles + w.positions[r] * d.head_size;
        std::memcpy(w.cos + r * half, angle, half * sizeof(float));
        std::memcpy(w.sin + r * half, angle + half, half * sizeof(float));
    }
}

template <typename T>
void whole(const Decoder &d, const Whole &w) {
    const Attention &of = w.attention;
    Company company;
#pragma omp parallel
    {
        Step<T> step{d, w.x, (T *)w.mixed, (T *)w.q, (T *)w.k, (T *)w.v, w.cos, w.sin, w.hidden, Turn{company}};
        embed<T>(d, w);
        step.turn.meet();
        step.run(-1, 0, w.rows);
        for (long layer = 0; layer < d.depth; layer++) {
            of.attend(of.cache, of.step, layer, w.q, w.k, w.v, w.mixed, &step.turn);
            step.run(layer, layer + 1, w.rows);
        }
        multiply(d, *w.output, w.hidden, w.wanted, w.count, w.scores, step.turn);
    }
}

}  // namespace

extern "C" {

// From layer `done`'s attention answer `mixed` through its feed-forward, then to the q, k and v of layer
// `next`, or to `hidden` when `next` is the depth; -1 leaves a half out. A sparse layer's feed-forward is the
// caller's: `done` then ends with its normed input in `hidden`.
void weft_decoder_step(const Decoder *d, long done, long next, long rows, float *x, const void *mixed, void *q,
                       void *k, void *v, const float *cos, const float *sin, float *hidden) {
    (d->cache_bf16 ? step<bf16> : step<float>)(*d, done, next, rows, x, mixed, q, k, v, cos, sin, hidden);
}

// All layers of a dense decoder and the scores of the rows that are wanted.
void weft_decoder_whole(const Decoder *d, const Whole *w) { (d->cache_bf16 ? whole<bf16> : whole<float>)(*d, *w); }

// out[rows, width] = SwiGLU's feed-forward of fp32 x [rows, width].
void weft_decoder_feed(const Decoder *d, const Matrix *gate_up, const Matrix *down, const float *x, long rows,
                       float *out) {
    Company company;
#pragma omp parallel
    {
        Step<float> work{*d, 0, 0, 0, 0, 0, 0, 0, 0, Turn{company}};
        for (long begin = 0; begin < rows; begin += d->chunk) {
            long count = std::min(d->chunk, rows - begin);
            Share mine(count);
            Rows a = rows_for(*d, *gate_up);
            for (long r = mine.first; r < mine.last; r++) encode(*gate_up, x + (begin + r) * d->width, a, r);
            work.feed(*gate_up, *down, count, out + begin * d->width, SET);
        }
    }
}

// out[rows, N] = x w^T (+ bias) for fp32 x.
void weft_decoder_product(const Decoder *d, const Matrix *m, const float *x, long rows, float *out) {
    Company company;
#pragma omp parallel
    {
        Turn turn{company};
        multiply(*d, *m, x, nullptr, rows, out, turn);
    }
}
}
