// MinHash signatures and exact Jaccard similarities of sets of 64-bit shingles. The plain twin is minhash.py.
#include <algorithm>
#include <cstdint>

namespace {

// Permutations side by side: their minima and constants stay in vector registers while the shingles go by.
constexpr int64_t BLOCK = 64;

static inline uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15ull;
    return hash ^ hash >> 29;
}

void minima(const uint64_t *shingles, int64_t count, const uint32_t *add, const uint32_t *factor, uint32_t *out) {
    uint32_t least[BLOCK], a[BLOCK], f[BLOCK];
    for (int64_t i = 0; i < BLOCK; i++) least[i] = 0xffffffffu, a[i] = add[i], f[i] = factor[i];
    for (int64_t s = 0; s < count; s++) {
        const uint32_t key = shingles[s] >> 32;
        for (int64_t i = 0; i < BLOCK; i++) {
            const uint32_t value = (key ^ a[i]) * f[i];
            least[i] = value < least[i] ? value : least[i];
        }
    }
    std::copy(least, least + BLOCK, out);
}

}  // namespace

// Of each of `count` sets, the hashes of its `bands` bands of `rows` minima, `out` [count, bands]. `add` and
// `factor` have a multiple of 64 entries, at least bands * rows, and `scratch` as many.
extern "C" void band_hashes(const uint64_t *shingles, const int64_t *offsets, int64_t count, const uint32_t *add,
                            const uint32_t *factor, int64_t bands, int64_t rows, uint32_t *scratch, uint64_t *out) {
    for (int64_t i = 0; i < count; i++) {
        for (int64_t from = 0; from < bands * rows; from += BLOCK)
            minima(shingles + offsets[i], offsets[i + 1] - offsets[i], add + from, factor + from, scratch + from);
        for (int64_t band = 0; band < bands; band++) {
            uint64_t hash = band + 1;
            for (int64_t row = 0; row < rows; row++) hash = mix(hash, scratch[band * rows + row]);
            out[i * bands + band] = hash;
        }
    }
}

// The Jaccard similarity of each pair of sorted sets without repetition: `left` and `right` [pairs] name them.
extern "C" void similarities(const uint64_t *shingles, const int64_t *begins, const int64_t *ends,
                             const int64_t *left, const int64_t *right, int64_t pairs, double *out) {
    for (int64_t i = 0; i < pairs; i++) {
        const uint64_t *a = shingles + begins[left[i]], *b = shingles + begins[right[i]];
        const uint64_t *a_end = shingles + ends[left[i]], *b_end = shingles + ends[right[i]];
        const int64_t whole = (a_end - a) + (b_end - b);
        int64_t common = 0;
        while (a < a_end && b < b_end) {
            const uint64_t x = *a, y = *b;
            common += x == y, a += x <= y, b += y <= x;
        }
        out[i] = (double)common / (double)(whole - common);
    }
}
