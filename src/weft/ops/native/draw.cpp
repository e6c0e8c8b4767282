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

// Weights relative to that of the best token, which has 1, and their sum in each block.
double weigh(const float *scores, long V, float temperature, float *weight, double *sums) {
    float top = scores[0];
    for (long i = 1; i < V; i++) top = scores[i] > top ? scores[i] : top;
    double total = 0.0;
    for (long block = 0; block < V; block += BLOCK) {
        long end = std::min(block + BLOCK, V);
        for (long i = block; i < end; i++) {
            float x = (scores[i] - top) / temperature;
            weight[i] = x < -80.0f ? 0.0f : fast_exp(x);  // what is forbidden has no weight at all
        }
        double sum = 0.0;
        for (long i = block; i < end; i++) sum += weight[i];
        sums[block / BLOCK] = sum;
        total += sum;
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

int64_t walk_all(const float *weight, const double *sums, long V, double target) {
    double before = 0.0;
    long block = 0;
    while (block + BLOCK < V && before + sums[block / BLOCK] <= target) before += sums[block / BLOCK], block += BLOCK;
    return block + walk(weight + block, std::min(BLOCK, V - block), target - before, 0.0f);
}

// The heaviest tokens, sorted: at least top_k of them, or the share top_p of the total.
void heaviest(const float *weight, long V, const Filters &f, double total, std::vector<Candidate> &out) {
    for (float least = 0.0625f;; least /= 64.0f) {
        out.clear();
        bool all = least < 1e-30f;
        double sum = 0.0;
        for (long i = 0; i < V; i++)
            if (weight[i] >= least || (all && weight[i] > 0.0f)) out.push_back({weight[i], i}), sum += weight[i];
        if (all || (f.top_k > 0 ? (int64_t)out.size() >= f.top_k : sum >= f.top_p * total)) break;
    }
    std::sort(out.begin(), out.end());
}

int64_t draw(const float *scores, long V, Filters f, float *weight, double *sums, std::vector<Candidate> &some) {
    double total = weigh(scores, V, f.temperature, weight, sums);
    if (f.top_k >= V) f.top_k = 0;
    bool sorted = f.top_k > 0 || f.top_p < 1.0f;
    if (!sorted && f.min_p <= 0.0f) return walk_all(weight, sums, V, f.number * total);
    if (!sorted) {
        double kept = 0.0;
        for (long i = 0; i < V; i++) kept += weight[i] >= f.min_p ? weight[i] : 0.0f;
        return walk(weight, V, f.number * kept, f.min_p);
    }
    heaviest(weight, V, f, total, some);
    if (f.top_k > 0 && (int64_t)some.size() > f.top_k) some.resize(f.top_k);
    if (f.top_k > 0) {
        total = 0.0;
        for (auto &c : some) total += c.weight;
    }
    size_t count = 0;
    double kept = 0.0;
    while (count < some.size() && (f.top_p >= 1.0f || kept < f.top_p * total) && some[count].weight >= f.min_p)
        kept += some[count++].weight;
    double target = f.number * kept, sum = 0.0;
    for (size_t i = 0; i < count; i++)
        if ((sum += some[i].weight) > target) return some[i].token;
    return some[count - 1].token;
}

}  // namespace

// The token of rows[r], a row of V numbers among those `stride` apart, by filters[r].
extern "C" void weft_draw(const float *scores, long stride, long V, long count, const int64_t *rows,
                          const Filters *filters, int64_t *tokens) {
#pragma omp parallel if (count * V > 100000)
    {
        std::vector<float> weight(V);
        std::vector<double> sums((V + BLOCK - 1) / BLOCK);
        std::vector<Candidate> some;
#pragma omp for schedule(dynamic)
        for (long r = 0; r < count; r++)
            tokens[r] = draw(scores + rows[r] * stride, V, filters[r], weight.data(), sums.data(), some);
    }
}
