// Attention over a paged key-value cache, for one step of many sequences.
//
// Whatever else is in the step, in whatever pieces a prompt comes and on however many threads it runs, a query
// goes through the same sums in the same order: scores are one chain over the head's dimensions, the softmax
// is online (arXiv:1805.02867) over tiles of 64 keys that begin at multiples of 64 positions, and keys that a
// query does not see contribute exact zeros. So its result is the same to the last bit.
//
// Keys lie transposed in their block, [D][16], so that a vector is one dimension of 16 keys and scores need
// no horizontal sums; values lie in rows, [16][P], P = D rounded up to 16. Vectors are the compiler's own
// (GCC, Clang): one AVX-512 register, or several of a smaller machine.
//
// A query sees its own position and those before it, or, where an item says so, the first `seen` of its keys
// whatever its position is. A bias by distance, key minus query, may be added to scores; the distances beyond
// `reach` share the last one.
//
// Cache: keys [blocks, G, D, 16], values [blocks, G, 16, P], of bf16 (see also paged_pairs.h), fp32 or int8; with int8 one scale for each
// key and value vector, fp32 [blocks, G, 16]. q, out [N, H, D]; k, v [N, G, D].
#include <algorithm>
#include <memory>
#include <vector>

#include "company.h"
#include "numbers.h"
#include "paged_pairs.h"

namespace {

constexpr int LANES = 16, BLOCK = 16, TILE = 64;

typedef float Vector __attribute__((vector_size(64)));
typedef int32_t Whole __attribute__((vector_size(64)));
typedef uint16_t Half __attribute__((vector_size(32)));
typedef int8_t Byte __attribute__((vector_size(16)));

inline Vector load(const float *x) {
    Vector v;
    std::memcpy(&v, x, 64);
    return v;
}
inline Vector load(const bf16 *x) {
    Half h;
    std::memcpy(&h, x, 32);
    return (Vector)(__builtin_convertvector(h, Whole) << 16);
}
inline Vector load(const int8_t *x) {
    Byte b;
    std::memcpy(&b, x, 16);
    return __builtin_convertvector(__builtin_convertvector(b, Whole), Vector);
}
inline void store(float *x, Vector v) { std::memcpy(x, &v, 64); }
inline Vector all(float x) { return Vector{} + x; }
inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }
#if defined(__clang__)
#define SHUFFLED(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define SHUFFLED(v, ...) __builtin_shuffle(v, Whole{__VA_ARGS__})
#endif
inline float largest(Vector v) {
    v = larger(v, SHUFFLED(v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = larger(v, SHUFFLED(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = larger(v, SHUFFLED(v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    v = larger(v, SHUFFLED(v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
    return v[0];
}
inline float total(Vector v) {
    float half[8];
    for (int i = 0; i < 8; i++) half[i] = v[i] + v[i + 8];
    return ((half[0] + half[4]) + (half[2] + half[6])) + ((half[1] + half[5]) + (half[3] + half[7]));
}
// As fast_exp, for arguments up to 0.
inline Vector exponential(Vector x) {
    Vector magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    x = x < -87.0f ? all(-87.0f) : x;  // a NaN stays one
    Vector n = (x * 1.44269504088896341f + magic) - magic;
    Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vector p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    return p * (Vector)((__builtin_convertvector(n, Whole) + 127) << 23);
}

}  // namespace

extern "C" {
// The caller's description of a cache and of a step. An item is a stretch of rows of one sequence.
struct Cache {
    void *const *keys, *const *values;  // one of each for every layer
    float *const *key_scales, *const *value_scales;
    long H, G, D, window;  // window 0: none
    float scale;
};
struct Step {
    long items, width, rows;  // width: entries of a table
    const int32_t *first_row, *count, *past, *seen, *tables;
    const int64_t *places;  // block * 16 + offset of every row; null: nothing is stored
    const float *bias;      // [H, 2 * reach + 1], or null
    long reach;
};
}

namespace {

inline long padded(long D) { return (D + LANES - 1) / LANES * LANES; }

// One vector of a token into the cache; int8 is symmetric with one scale a vector.
template <typename X, typename T>
inline void put(const X *x, T *out, long stride, long D, float *) {
    for (long d = 0; d < D; d++) narrow(widen(x[d]), out[d * stride]);
}
template <typename X>
inline void put(const X *x, int8_t *out, long stride, long D, float *scale) {
    float top = 0.0f;
    for (long d = 0; d < D; d++) top = std::max(top, std::fabs(widen(x[d])));
    float inverse = top > 0.0f ? 127.0f / top : 0.0f;
    *scale = top / 127.0f;
    for (long d = 0; d < D; d++) out[d * stride] = (int8_t)std::nearbyint(widen(x[d]) * inverse);
}

template <typename X>
X not_a_number() {
    X x;
    narrow(NAN, x);
    return x;
}

// Whether all are finite. By their bits, which the compiler compares in vectors; numbers it may not take out of turn.
inline bool finite(const bf16 *x, long D) {
    uint16_t wrong = 0;
    for (long d = 0; d < D; d++) wrong |= (x[d] & 0x7f80) == 0x7f80;
    return !wrong;
}
inline bool finite(const float *x, long D) {
    uint32_t wrong = 0;
    for (long d = 0; d < D; d++) {
        uint32_t bits;
        std::memcpy(&bits, x + d, 4);
        wrong |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !wrong;
}

// In a line of the caches.
template <typename T>
constexpr long VECTORS = std::max<long>(1, 64 / (LANES * sizeof(T)));

// The blocks of 64 keys and their values; where the keys of the tile that comes next lie, to be fetched.
template <typename T>
struct Tile {
    static constexpr int MANY = TILE / BLOCK;
    const T *k[MANY], *v[MANY], *ahead[MANY];
    int blocks;  // that hold keys which are seen
};

// s[i][64] = q[i] . k over D for NQ queries and NB blocks of keys from block `from` of the tile on.
template <int NQ, int NB, typename T>
inline void dots(const float *q, long D, const Tile<T> &tile, int from, float *s) {
    Vector sum[NQ][NB];
    for (int i = 0; i < NQ; i++)
        for (int b = 0; b < NB; b++) sum[i][b] = Vector{};
    auto one = [&](long d) {
        Vector key[NB];
#pragma GCC unroll 8
        for (int b = 0; b < NB; b++) key[b] = load(tile.k[from + b] + d * BLOCK);
#pragma GCC unroll 8
        for (int i = 0; i < NQ; i++)
#pragma GCC unroll 8
            for (int b = 0; b < NB; b++) sum[i][b] += q[i * D + d] * key[b];
    };
    long d = 0;
    for (; d + VECTORS<T> <= D; d += VECTORS<T>) {
#pragma GCC unroll 8
        for (int b = 0; b < NB; b++) __builtin_prefetch(tile.v[from + b] + d * BLOCK);
#pragma GCC unroll 8
        for (long e = 0; e < VECTORS<T>; e++) one(d + e);
    }
    for (; d < D; d++) one(d);
#pragma GCC unroll 8
    for (int i = 0; i < NQ; i++)
#pragma GCC unroll 8
        for (int b = 0; b < NB; b++) store(s + i * TILE + (from + b) * BLOCK, sum[i][b]);
}

// o[i] += sum over keys j of [j0, j1) of s[i][j] * v[j], for NQ queries and NV vectors from dimension d on.
template <int NQ, int NV, typename T>
inline void mix(const float *s, const Tile<T> &tile, long P, int j0, int j1, long d, float *o) {
    Vector sum[NQ][NV];
#pragma GCC unroll 8
    for (int i = 0; i < NQ; i++)
#pragma GCC unroll 8
        for (int n = 0; n < NV; n++) sum[i][n] = load(o + i * P + d + n * LANES);
    for (int j = j0; j < j1; j++) {
        const long at = (j % BLOCK) * P + d;
        const T *row = tile.v[j / BLOCK] + at, *ahead = tile.ahead[j / BLOCK] + at;
        Vector value[NV];
#pragma GCC unroll 8
        for (int n = 0; n < NV; n++) {
            value[n] = load(row + n * LANES);
            if (n % VECTORS<T> == 0) __builtin_prefetch(ahead + n * LANES);
        }
#pragma GCC unroll 8
        for (int i = 0; i < NQ; i++)
#pragma GCC unroll 8
            for (int n = 0; n < NV; n++) sum[i][n] += s[i * TILE + j] * value[n];
    }
#pragma GCC unroll 8
    for (int i = 0; i < NQ; i++)
#pragma GCC unroll 8
        for (int n = 0; n < NV; n++) store(o + i * P + d + n * LANES, sum[i][n]);
}

// Few queries take more keys (or dimensions) at once: the chains of sums must outnumber the latency of one. But all must
// fit in registers, of which a vector takes two where they have 256 bits.
#if defined(__AVX512F__)
constexpr int MOST = 8;
constexpr int wide(int queries) { return queries > 4 ? 2 : 4; }
#else
constexpr int MOST = 4;
constexpr int wide(int queries) { return queries > 1 ? 1 : 4; }
#endif

template <int NQ, typename T>
void scores(const float *q, long D, const Tile<T> &tile, float *s) {
    constexpr int NB = wide(NQ);
    int from = 0;
    for (; from + NB <= tile.blocks; from += NB) dots<NQ, NB>(q, D, tile, from, s);
    if (NB > 2 && from + 2 <= tile.blocks) dots<NQ, 2>(q, D, tile, from, s), from += 2;
    if (from < tile.blocks) dots<NQ, 1>(q, D, tile, from, s);
}
template <int NQ, typename T>
void mixture(const float *s, const Tile<T> &tile, long P, int j0, int j1, float *o) {
    constexpr int NV = wide(NQ);
    long d = 0;
    for (; d + NV * LANES <= P; d += NV * LANES) mix<NQ, NV>(s, tile, P, j0, j1, d, o);
    for (; d < P; d += LANES) mix<NQ, 1>(s, tile, P, j0, j1, d, o);
}

template <typename T>
void scores(int queries, const float *q, long D, const Tile<T> &tile, float *s) {
    for (; queries > MOST; queries -= MOST, q += MOST * D, s += MOST * TILE) scores<MOST>(q, D, tile, s);
    switch (queries) {
        case 1: return scores<1>(q, D, tile, s);
        case 2: return scores<2>(q, D, tile, s);
        case 3: return scores<3>(q, D, tile, s);
        case 4: return scores<4>(q, D, tile, s);
#if defined(__AVX512F__)
        case 5: return scores<5>(q, D, tile, s);
        case 6: return scores<6>(q, D, tile, s);
        case 7: return scores<7>(q, D, tile, s);
        default: return scores<8>(q, D, tile, s);
#endif
    }
}
template <typename T>
void mixture(int queries, const float *s, const Tile<T> &tile, long P, int j0, int j1, float *o) {
    for (; queries > MOST; queries -= MOST, s += MOST * TILE, o += MOST * P) mixture<MOST>(s, tile, P, j0, j1, o);
    switch (queries) {
        case 1: return mixture<1>(s, tile, P, j0, j1, o);
        case 2: return mixture<2>(s, tile, P, j0, j1, o);
        case 3: return mixture<3>(s, tile, P, j0, j1, o);
        case 4: return mixture<4>(s, tile, P, j0, j1, o);
#if defined(__AVX512F__)
        case 5: return mixture<5>(s, tile, P, j0, j1, o);
        case 6: return mixture<6>(s, tile, P, j0, j1, o);
        case 7: return mixture<7>(s, tile, P, j0, j1, o);
        default: return mixture<8>(s, tile, P, j0, j1, o);
#endif
    }
}

// The keys [first, end) of a tile, which a query sees.
struct Seen {
    int first, end;
    bool all() const { return first <= 0 && end >= TILE; }
    // Those of the block `b`, as a mask.
    Whole of(int b) const {
        const Whole key = Whole{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + b * BLOCK;
        return (key >= first) & (key < end);
    }
};

// What some queries have seen so far: the greatest score of each, and by lanes the sum of exponentials below it.
template <int QUERIES>
struct Softmax {
    static constexpr int LINES = (QUERIES + LANES - 1) / LANES;
    Vector top[LINES], kept[LINES], highest[LINES];
    Vector sum[QUERIES];

    Softmax() {
        for (Vector &line : top) line = all(-INFINITY);
        for (Vector &line : highest) line = all(-INFINITY);
        for (Vector &line : sum) line = Vector{};
    }

    // Scores of a tile, [queries][64], are multiplied by `factor`; afterwards `kept` is what earlier sums are to be
    // multiplied by. Scales are those of int8 blocks, else null.
    void look(int queries, float *s, const Seen *seen, float factor, const float *const *key_scales) {
        for (int i = 0; i < queries; i++)
            (seen[i].all() ? look_at<true> : look_at<false>)(*this, i, s + i * TILE, seen[i], factor, key_scales);
        for (int n = 0; n < LINES; n++) {
            const Vector before = top[n], none = all(-INFINITY);
            top[n] = highest[n] > before ? highest[n] : before;
            kept[n] = before == none ? Vector{} : exponential(before - top[n]);
            kept[n] = before == top[n] ? all(1.0f) : kept[n];
        }
    }
    // They become weights, which `sums` keeps.
    template <class Sums>
    void weigh(Sums &sums, int queries, float *s, const Seen *seen, const float *const *value_scales) {
        for (int i = 0; i < queries; i++)
            (seen[i].all() ? weighed<true, Sums> : weighed<false, Sums>)(*this, sums, i, s, seen[i], value_scales);
    }

  private:
    static float &of(Vector *lines, int i) { return ((float *)lines)[i]; }

    template <bool ALL>
    static void look_at(Softmax &self, int i, float *s, const Seen &seen, float factor, const float *const *key_scales) {
        Vector high = all(-INFINITY);
        Whole wrong{};
        for (int b = 0; b < TILE / BLOCK; b++) {
            Vector x = load(s + b * BLOCK) * factor;
            if (key_scales) x *= load(key_scales[b]);
            store(s + b * BLOCK, x);
            if (!ALL) x = seen.of(b) ? x : all(-INFINITY);
            wrong |= x != x;
            high = larger(high, x);
        }
        // A score that is NaN may be no greatest one. It is to show, and all bits set are a NaN.
        self.sum[i] = (Vector)((Whole)self.sum[i] | wrong);
        of(self.highest, i) = largest(high);
    }

    template <bool ALL, class Sums>
    static void weighed(Softmax &self, Sums &sums, int i, float *s, const Seen &seen, const float *const *value_scales) {
        const float most = of(self.top, i);
        if (most == -INFINITY) {  // it has seen nothing yet
            for (int b = 0; b < TILE / BLOCK; b++) sums.keep(Vector{}, s, i * TILE + b * BLOCK);
            return;
        }
        Vector sum = self.sum[i] * of(self.kept, i);
        for (int b = 0; b < TILE / BLOCK; b++) {
            const long at = i * TILE + b * BLOCK;
            Vector p = exponential(load(s + at) - most);
            if (!ALL) p = seen.of(b) ? p : Vector{};
            sum = sum + p;
            if (value_scales) p *= load(value_scales[b]);
            if (value_scales && !ALL) p = seen.of(b) ? p : Vector{};
            sums.keep(p, s, at);
        }
        self.sum[i] = sum;
    }
};

struct Task {
    int item, group, first, queries;  // queries [first, first + queries) of the item's count * R
};

// How queries are multiplied by keys and weights by values, and how both lie in a block.
template <typename T>
struct PlainSums {
    static constexpr int QUERIES = 8;  // that are worked on together
    struct Thread {};                  // what a thread holds while it works
    const long D, P;
    const float scale;
    const float factor = 1.0f;  // what scores are still to be multiplied by
    const std::unique_ptr<float[]> query;  // not zeroed: what is not used is not touched

    PlainSums(long D, long P, float scale) : D(D), P(P), scale(scale), query(new float[QUERIES * D]) {}

    void begin(int) {}
    template <typename X>
    void take(const X *row, int i) {
        for (long d = 0; d < D; d++) query[i * D + d] = widen(row[d]) * scale;
    }
    void find_scores(int queries, const Tile<T> &tile, float *s) { scores(queries, query.get(), D, tile, s); }
    void ready(const Tile<T> &, int, int) {}
    void keep(Vector weights, float *s, long at) { store(s + at, weights); }
    void mix(int queries, float *s, const Tile<T> &tile, int first, int end, float *o) {
        mixture(queries, s, tile, P, first, end, o);
    }

    template <typename X>
    static void put_key(const X *x, T *block, long place, long D, float *factor) {
        put(x, block + place, BLOCK, D, factor);
    }
    template <typename X>
    static void put_value(const X *x, T *block, long place, long D, long P, float *factor) {
        put(x, block + place * P, 1, D, factor);
    }
};

template <typename T>
struct Sums : PlainSums<T> {
    using PlainSums<T>::PlainSums;
};
#if WEFT_TILES
template <>
struct Sums<bf16> : pairs::Sums {
    using pairs::Sums::Sums;
};
#endif

template <typename X, typename T>
struct Worker {
    const Cache &cache;
    const Step &step;
    const X *q;
    X *out;
    const T *keys, *values;
    const float *key_scales, *value_scales;
    long R, P;
    Sums<T> sums;
    const std::unique_ptr<float[]> mixed, score;
    static constexpr int QUERIES = Sums<T>::QUERIES;

    Worker(const Cache &c, const Step &step, int layer, const X *q, X *out)
        : cache(c), step(step), q(q), out(out), keys((const T *)c.keys[layer]), values((const T *)c.values[layer]),
          key_scales(c.key_scales ? c.key_scales[layer] : nullptr),
          value_scales(c.value_scales ? c.value_scales[layer] : nullptr), R(c.H / c.G), P(padded(c.D)),
          sums(c.D, P, c.scale), mixed(new float[QUERIES * P]), score(new float[QUERIES * TILE]) {}

    long offset(const Task &task, int i) const {
        long at = task.first + i, row = step.first_row[task.item] + at / R;
        return (row * cache.H + task.group * R + at % R) * cache.D;
    }

    // One past the last key that a query at this position sees.
    int until(int item, int position) const { return step.seen[item] ? step.seen[item] : position + 1; }

    // Fetch the keys and values of a task's first tile.
    void expect(const Task &task) const {
        const int j0 = lowest(step.past[task.item] + task.first / R) / TILE * TILE;
        const int end = until(task.item, step.past[task.item] + (task.first + task.queries - 1) / R);
        const int blocks = std::min<int>(Tile<T>::MANY, (end - j0 + BLOCK - 1) / BLOCK);
        for (int b = 0; b < blocks; b++) {
            const char *key = (const char *)(keys + at(task, j0, b) * cache.D * BLOCK);
            const char *value = (const char *)(values + at(task, j0, b) * BLOCK * P);
            for (long line = 0; line < cache.D * BLOCK * (long)sizeof(T); line += 64)
                __builtin_prefetch(key + line), __builtin_prefetch(value + line);
        }
    }

    // `next` is what this thread will probably be given afterwards.
    void run(const Task &task, const Task &next) {
        long D = cache.D;
        int position[QUERIES], from[QUERIES];
        sums.begin(task.queries);
        for (int i = 0; i < task.queries; i++) {
            sums.take(q + offset(task, i), i);
            position[i] = step.past[task.item] + (task.first + i) / R;
            from[i] = lowest(position[i]);
        }
        int begin = from[0] / TILE * TILE, end = until(task.item, position[task.queries - 1]);
        Softmax<QUERIES> softmax;
        std::fill_n(mixed.get(), task.queries * P, 0.0f);
        for (int j0 = begin; j0 < end; j0 += TILE) {
            Tile<T> tile;
            tile.blocks = std::min<int>(Tile<T>::MANY, (end - j0 + BLOCK - 1) / BLOCK);
            const bool last = j0 + TILE >= end;
            const Task &then = last ? next : task;
            const int there = last ? lowest(step.past[next.item] + next.first / R) / TILE * TILE : j0 + TILE;
            for (int b = 0; b < Tile<T>::MANY; b++) {
                tile.k[b] = keys + at(task, j0, b) * D * BLOCK, tile.v[b] = values + at(task, j0, b) * BLOCK * P;
                tile.ahead[b] = keys + at(then, there, b) * D * BLOCK;
            }
            take(task, tile, j0, from, position, softmax);
        }
        for (int i = 0; i < task.queries; i++) {
            float inverse = 1.0f / total(softmax.sum[i]);
            X *row = out + offset(task, i);
            for (long d = 0; d < D; d++) narrow(mixed[i * P + d] * inverse, row[d]);
        }
    }

    // To the scores of a tile whose first key is `distance` behind the query; scales are those of int8 blocks, else null.
    void add_bias(float *s, long head, long distance, const float *const *key_scales) const {
        const float *bias = step.bias + head * (2 * step.reach + 1) + step.reach;
        for (long j = 0; j < TILE; j++) {
            const float score = key_scales ? s[j] * sums.factor * key_scales[j / BLOCK][j % BLOCK] : s[j] * sums.factor;
            s[j] = score + bias[std::clamp(distance + j, -step.reach, step.reach)];
        }
    }

    int lowest(int position) const { return cache.window ? std::max<long>(0, position - cache.window + 1) : 0; }

    // Block `b` of the tile at j0, of the task's group. Where the sequence ends stands the tile's first block,
    // which is not looked at.
    long at(const Task &task, int j0, int b) const {
        const int end = until(task.item, step.past[task.item] + step.count[task.item] - 1);
        const int place = j0 / BLOCK + (j0 + b * BLOCK < end ? b : 0);
        return step.tables[(long)task.item * step.width + place] * cache.G + task.group;
    }

    void take(const Task &task, const Tile<T> &tile, int j0, const int *from, const int *position, Softmax<QUERIES> &softmax) {
        const float *ks[Tile<T>::MANY], *vs[Tile<T>::MANY];
        for (int b = 0; key_scales && b < Tile<T>::MANY; b++)
            ks[b] = key_scales + at(task, j0, b) * BLOCK, vs[b] = value_scales + at(task, j0, b) * BLOCK;
        // Places that no sequence has written may hold anything, even NaN: they are not multiplied by zero.
        const int first = std::max(from[0] - j0, 0);
        const int end = std::min(until(task.item, position[task.queries - 1]) - j0, TILE);
        sums.find_scores(task.queries, tile, score.get());
        sums.ready(tile, first, end);
        Seen seen[QUERIES];
        for (int i = 0; i < task.queries; i++) {
            seen[i] = {from[i] - j0, until(task.item, position[i]) - j0};
            if (step.bias)
                add_bias(&score[i * TILE], task.group * R + (task.first + i) % R, j0 - position[i], key_scales ? ks : nullptr);
        }
        softmax.look(task.queries, score.get(), seen, step.bias ? 1.0f : sums.factor,
                     key_scales && !step.bias ? ks : nullptr);
        for (int i = 0; i < task.queries; i++) {
            const float kept = softmax.kept[i / LANES][i % LANES];
            if (kept != 1.0f)
                for (long d = 0; d < P; d++) mixed[i * P + d] *= kept;
        }
        softmax.weigh(sums, task.queries, score.get(), seen, key_scales ? vs : nullptr);
        sums.mix(task.queries, score.get(), tile, first, end, mixed.get());
    }
};

// The tasks of a step, numbered by items, then groups. Asked for in ascending order.
class Tasks {
    const Cache &cache;
    const Step &step;
    const long most;  // queries of a task
    long item = 0, begin = 0;

    long queries(long of) const { return step.count[of] * (cache.H / cache.G); }
    long parts(long of) const { return (queries(of) + most - 1) / most; }

  public:
    Tasks(const Cache &c, const Step &s, long most) : cache(c), step(s), most(most) {}

    long count() const {
        long all = 0;
        for (long i = 0; i < step.items; i++) all += cache.G * parts(i);
        return all;
    }
    Task at(long number) {
        while (number >= begin + cache.G * parts(item)) begin += cache.G * parts(item), item++;
        const long place = number - begin, first = place % parts(item) * most;
        return {(int)item, (int)(place / parts(item)), (int)first, (int)std::min(most, queries(item) - first)};
    }
};

// New keys and values of a layer, those of this thread's share of rows and groups.
template <typename X, typename T>
void put_new(const Cache &c, const Step &step, int layer, const X *k, const X *v) {
    const long P = padded(c.D), bytes = c.D * BLOCK * sizeof(T);
    T *keys = (T *)c.keys[layer], *values = (T *)c.values[layer];
    const Share mine(step.places ? step.rows * c.G : 0);
    auto block_of = [&](long n) { return step.places[n / c.G] / BLOCK * c.G + n % c.G; };
    // A key goes to as many lines as its block has, none of which is near after a layer's weights.
    auto fetch = [&](long n) {
        if (n >= mine.last || (n - c.G >= mine.first && block_of(n) == block_of(n - c.G))) return;
        const char *block = (const char *)(keys + block_of(n) * c.D * BLOCK);
        for (long line = 0; line < bytes; line += 64) __builtin_prefetch(block + line, 1);
    };
    fetch(mine.first);
    for (long n = mine.first; n < mine.last; n++) {
        fetch(n + 1);
        const long block = block_of(n), place = step.places[n / c.G] % BLOCK, scale = block * BLOCK + place;
        float *ks = c.key_scales ? c.key_scales[layer] + scale : nullptr;
        float *vs = c.value_scales ? c.value_scales[layer] + scale : nullptr;
        const X *key = k + n * c.D, *value = v + n * c.D;
        // A value that is no number would spoil rows that do not see it, as zero times NaN is NaN: its key is NaN
        // instead, and scores of keys that a row does not see are not looked at.
        const bool sound = finite(value, c.D) && (!ks || finite(key, c.D));
        std::vector<X> nothing(sound ? 0 : c.D, ks ? X{} : not_a_number<X>()), zeros(sound ? 0 : c.D);
        if (!sound) key = nothing.data(), value = zeros.data();
        Sums<T>::put_key(key, keys + block * c.D * BLOCK, place, c.D, ks);
        Sums<T>::put_value(value, values + block * BLOCK * P, place, c.D, P, vs);
        if (!sound && ks) *ks = NAN;
    }
}

// Called by every thread of a region.
template <typename X, typename T>
void attend(const Cache &c, const Step &step, int layer, const X *q, const X *k, const X *v, X *out, Turn &turn) {
    typename Sums<T>::Thread held;
    std::atomic<long> &next = turn.take();
    Tasks tasks(c, step, Sums<T>::QUERIES);
    const long count = tasks.count(), threads = omp_get_num_threads(), unit = std::max(1L, count / (threads * 8));
    put_new<X, T>(c, step, layer, k, v);
    Worker<X, T> worker(c, step, layer, q, out);
    // The first piece is this thread's own, the others go to who is free.
    const long own = omp_get_thread_num() * unit;
    if (own < count) worker.expect(Tasks(tasks).at(own));
    turn.meet();
    for (long at = own; at < count; at = (threads + next.fetch_add(1, std::memory_order_relaxed)) * unit)
        for (long t = at; t < std::min(at + unit, count); t++) {
            const long then = t + 1 < at + unit ? t + 1 : at + threads * unit;
            const Task task = tasks.at(t);
            worker.run(task, Tasks(tasks).at(std::min(then, count - 1)));
        }
    turn.meet();
}

template <typename X, typename T>
void attend(const Cache &c, const Step &step, int layer, const X *q, const X *k, const X *v, X *out) {
    long work = 0;
    for (long item = 0; item < step.items; item++)
        work += (long)std::max(step.past[item] + step.count[item], step.seen[item]) * c.D * step.count[item] * c.H;
    Company company;
#pragma omp parallel if (work > 100000)
    {
        Turn turn{company};
        attend<X, T>(c, step, layer, q, k, v, out, turn);
    }
}

}  // namespace

extern "C" {

// Whether a bf16 cache of heads of this size lies in pairs.
int weft_tiles_in_use() {
#if WEFT_TILES
    return tiles::in_use;
#else
    return 0;
#endif
}
int weft_paged_in_pairs(long D) {
#if WEFT_TILES
    return D % 2 == 0;
#else
    return 0;
#endif
}

#define WEFT_PAGED(name, X, T)                                                                                  \
    void weft_paged_##name(const Cache *cache, const Step *step, int layer, const X *q, const X *k, const X *v, \
                           X *out) {                                                                            \
        attend<X, T>(*cache, *step, layer, q, k, v, out);                                                       \
    }                                                                                                           \
    void weft_paged_##name##_within(const Cache *cache, const Step *step, int layer, const X *q, const X *k,    \
                                    const X *v, X *out, Turn *turn) {                                           \
        attend<X, T>(*cache, *step, layer, q, k, v, out, *turn);                                                \
    }
WEFT_PAGED(bf16, bf16, bf16)
WEFT_PAGED(fp32, float, float)
WEFT_PAGED(bf16_int8, bf16, int8_t)
WEFT_PAGED(fp32_int8, float, int8_t)
}
