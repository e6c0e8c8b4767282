// What the text kernels share: reading UTF-8, the tables of characters.py, hashes and a set of them.
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

constexpr uint32_t PLANES = 0x32400;
enum Flag : uint16_t {
    ALPHABETIC = 1, SPACE = 2, SYMBOL = 4, BREAK = 8, TERMINAL = 16, HAN = 32, ENDING = 64, FUNCTION = 128,
    DIGIT = 256, MARK = 512,
};

// One code point of valid UTF-8; `at` moves behind it.
static inline uint32_t decode(const uint8_t *text, int64_t &at) {
    uint32_t first = text[at++];
    if (first < 0x80) return first;
    uint32_t second = text[at++] & 0x3f;
    if (first < 0xe0) return (first & 0x1f) << 6 | second;
    uint32_t third = text[at++] & 0x3f;
    if (first < 0xf0) return (first & 0x0f) << 12 | second << 6 | third;
    return (first & 0x07) << 18 | second << 12 | third << 6 | (text[at++] & 0x3f);
}

// The entry of the table for a code point; the last one stands for all from PLANES on.
template <typename T>
static inline T look(const T *table, uint32_t code) {
    return table[code < PLANES ? code : PLANES];
}

// Code points of a range: bytes that do not continue one.
static inline int64_t characters(const uint8_t *text, int64_t from, int64_t to) {
    int64_t count = 0;
    for (int64_t i = from; i < to; i++) count += (text[i] & 0xc0) != 0x80;
    return count;
}

constexpr uint64_t MULTIPLIER = 0x9E3779B97F4A7C15ull;

static inline uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * MULTIPLIER;
    return hash ^ hash >> 29;
}

// Hash of bytes, eight at a time. It never leaves a call, so its value may differ between machines.
static inline uint64_t hash_bytes(const uint8_t *text, int64_t size) {
    uint64_t hash = mix(MULTIPLIER, size);
    for (; size >= 8; text += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        hash = mix(hash, word);
    }
    uint64_t rest = 0;
    for (int64_t i = 0; i < size; i++) rest = rest << 8 | text[i];
    return mix(mix(hash, rest), 1);
}

// Open addressing from 64-bit hashes to the order of their first insertion; cleared by a new generation.
class Places {
    struct Slot { uint64_t key; uint32_t place, generation; };
    std::vector<Slot> slots;
    uint32_t generation = 0, count = 0;
    uint64_t mask = 0;

public:
    void clear(int64_t capacity) {
        uint64_t size = 64;
        while (size < (uint64_t)capacity * 2) size *= 2;
        if (slots.size() < size || ++generation == 0) {
            slots.assign(size > slots.size() ? size : slots.size(), Slot{0, 0, 0});
            generation = 1;
        }
        // A small text stays in a small, cached part of a table that a large one made.
        mask = size - 1, count = 0;
    }
    // The place of the key; `added` says whether it is new.
    uint32_t insert(uint64_t key, bool &added) {
        for (uint64_t at = key >> 7 & mask;; at = (at + 1) & mask) {
            Slot &slot = slots[at];
            if (slot.generation != generation) {
                slot = {key, count, generation};
                added = true;
                return count++;
            }
            if (slot.key == key) { added = false; return slot.place; }
        }
    }
};
