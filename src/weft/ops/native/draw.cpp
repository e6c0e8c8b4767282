// Tokens drawn from rows of scores: temperature, top-k, top-p and min-p, then the token at a given number in
// [0, 1) of the cumulative weights. Each row is on its own.
#include <algorithm>
#include <vector>

#include "numbers.h"

namespace {

constexpr long BLOCK = 1024;

struct Candidate {
    float weight;
    int64_t token;
    bool operator<(const Candidate &other) const {
        return weight > other.weight || (weight == other.weight && token < other.token);
    }
};

struct Filters {
    float temperature, top_p, min_p;
    int64_t top_k;
    double number;
};

constexpr int LANES = 16;

// Lanes side by side, because the order of sums is kept as written and one chain would be slow.
float greatest(const float *x, long count) {
    float lane[LANES], top = x[0];
    std::fill(lane, lane + LANES, top);
    long i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    for (; i < count; i++) top = std::max(top, x[i]);
    for (float value : lane) top = std::max(top, value);
    return top;
}

double sum_of(const float *x, long count) {
    double lane[LANES] = {}, sum = 0.0;
    long i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] += x[i + l];
    for (; i < count; i++) sum += x[i];
    for (double value : lane) sum += value;
    return sum;
}

struct Top {
    float value;
    int64_t place;
};

// The greatest number and its first place; NaN if one is NaN.
Top top_of(const float *x, long count) {
    typedef float Floats __attribute__((vector_size(4 * LANES)));
    typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
    Floats best = Floats{} - INFINITY;
    Ints at{}, wrong{};
    long i = 0;
    for (; i + LANES <= count; i += LANES) {
        Floats v;
        std::memcpy(&v, x + i, sizeof v);
        const Ints better = v > best;
        best = better ? v : best;
        at = better ? Ints{} + int32_t(i) : at;
        wrong |= v != v;
    }
    Top top = {-INFINITY, count};
    auto take = [&](float value, int64_t place) {
        if (value > top.value || (value == top.value && place < top.place)) top = {value, place};
    };
    int some = 0;
    for (int l = 0; l < LANES; l++) some |= wrong[l], take(best[l], best[l] > -INFINITY ? at[l] + l : 0);
    for (; i < count; i++) some |= x[i] != x[i], take(x[i], i);
    return some ? Top{NAN, 0} : top;
}

// Of a stretch of BLOCK tokens: the sum of the weights and the greatest.
struct Stretch {
    double sum;
    float top;
};

// Weights relative to that of the best token, which has 1; returns their sum.
double weigh(const float *scores, long V, float temperature, float *weight, Stretch *stretches) {
    float top = greatest(scores, V);
    double total = 0.0;
    for (long from = 0; from < V; from += BLOCK) {
        long count = std::min(BLOCK, V - from);
        for (long i = from; i < from + count; i++) {
            float x = (scores[i] - top) / temperature;
            float y = fast_exp(x);
            weight[i] = x < -80.0f ? 0.0f : y;  // what is forbidden has no weight at all
        }
        stretches[from / BLOCK] = {sum_of(weight + from, count), greatest(weight + from, count)};
        total += stretches[from / BLOCK].sum;
    }
    return total;
}

// In the order of tokens, over all whose weight is at least `least`.
int64_t walk(const float *weight, long V, double target, float least) {
    double sum = 0.0;
    int64_t last = 0;
    for (long i = 0; i < V; i++)
        if (weight[i] >= least && weight[i] > 0.0f) {
            last = i, sum += weight[i];
            if (sum > target) return i;
        }
    return last;  // the sum was rounded down
}

int64_t walk_all(const float *weight, const Stretch *stretches, long V, double target) {
    double before = 0.0;
    long block = 0;
    for (; block + BLOCK < V && before + stretches[block / BLOCK].sum <= target; block += BLOCK)
        before += stretches[block / BLOCK].sum;
    return block + walk(weight + block, std::min(BLOCK, V - block), target - before, 0.0f);
}

// The heaviest tokens, sorted: at least top_k of them, or the share top_p of the total.
void heaviest(const float *weight, const Stretch *stretches, long V, const Filters &f, double total,
              std::vector<Candidate> &out) {
    for (float least = 0.125f;; least /= 8.0f) {
        out.clear();
        bool all = least < 1e-30f;
        double sum = 0.0;
        for (long from = 0; from < V; from += BLOCK) {
            if (!all && stretches[from / BLOCK].top < least) continue;
            for (long i = from; i < std::min(from + BLOCK, V); i++)
                if (weight[i] >= least || (all && weight[i] > 0.0f)) out.push_back({weight[i], i}), sum += weight[i];
        }
        if (all || (f.top_k > 0 ? (int64_t)out.size() >= f.top_k : sum >= f.top_p * total)) break;
    }
    if (f.top_k > 0 && (int64_t)out.size() > f.top_k) {
        std::nth_element(out.begin(), out.begin() + f.top_k, out.end());
        out.resize(f.top_k);
    }
    std::sort(out.begin(), out.end());
}

int64_t draw(const float *scores, long V, Filters f, float *weight, Stretch *stretches,
             std::vector<Candidate> &some) {
    double total = weigh(scores, V, f.temperature, weight, stretches);
    if (f.top_k >= V) f.top_k = 0;
    bool sorted = f.top_k > 0 || f.top_p < 1.0f;
    if (!sorted && f.min_p <= 0.0f) return walk_all(weight, stretches, V, f.number * total);
    if (!sorted) {
        double kept = 0.0;
        for (long i = 0; i < V; i++) kept += weight[i] >= f.min_p ? weight[i] : 0.0f;
        return walk(weight, V, f.number * kept, f.min_p);
    }
    heaviest(weight, stretches, V, f, total, some);
    if (some.empty()) return 0;  // nothing has any weight
    if (f.top_k > 0) {
        total = 0.0;
        for (auto &c : some) total += c.weight;
    }
    size_t count = 0;
    double kept = 0.0;
    auto wanted = [&] { return (f.top_p >= 1.0f || kept < f.top_p * total) && some[count].weight >= f.min_p; };
    // The best one stays even where top_p is too small for a float, which is then 0.
    while (count < some.size() && (count == 0 || wanted())) kept += some[count++].weight;
    double target = f.number * kept, sum = 0.0;
    for (size_t i = 0; i < count; i++)
        if ((sum += some[i].weight) > target) return some[i].token;
    return some[count - 1].token;
}

}  // namespace

// The greatest of V numbers of each row, of those `stride` apart, and where it stands first; NaN if one is NaN.
extern "C" void weft_greatest(const float *scores, long stride, long V, long count, float *best, int64_t *tokens) {
#pragma omp parallel for if (count > 1 && count * V > 100000)
    for (long r = 0; r < count; r++) {
        const Top top = top_of(scores + r * stride, V);
        best[r] = top.value, tokens[r] = top.place;
    }
}

// The token of rows[r], a row of V numbers among those `stride` apart, by filters[r].
extern "C" void weft_draw(const float *scores, long stride, long V, long count, const int64_t *rows,
                          const Filters *filters, int64_t *tokens) {
#pragma omp parallel if (count * V > 100000)
    {
        std::vector<float> weight(V);
        std::vector<Stretch> stretches((V + BLOCK - 1) / BLOCK);
        std::vector<Candidate> some;
#pragma omp for schedule(dynamic)
        for (long r = 0; r < count; r++)
            tokens[r] = draw(scores + rows[r] * stride, V, filters[r], weight.data(), stretches.data(), some);
    }
}
