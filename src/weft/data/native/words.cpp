// Hashes of words and of lines. Words are runs of letters, marks and digits, folded to lower case; each Han
// character is one. The hashes are the same on every machine and those of the plain twin in words.py.
#include "unicode.h"

namespace {

struct Folding {
    const uint16_t *flags;
    const uint32_t *folded;
};

constexpr uint64_t FACTOR = 0xC2B2AE3D27D4EB4Full;  // keeps "a b" apart from "b a"
// The hash of a word: its folded code points, one after another.
constexpr uint64_t EMPTY = 0x243F6A8885A308D3ull;

int64_t words_of(const uint8_t *text, int64_t size, const Folding &tables, uint64_t *out) {
    int64_t count = 0;
    uint64_t hash = EMPTY;
    for (int64_t at = 0; at < size;) {
        uint32_t code = decode(text, at), letter = look(tables.folded, code);
        bool han = look(tables.flags, code) & HAN;
        if ((han || !letter) && hash != EMPTY) out[count++] = hash, hash = EMPTY;
        if (han) out[count++] = mix(EMPTY, letter);
        else if (letter) hash = mix(hash, letter);
    }
    if (hash != EMPTY) out[count++] = hash;
    return count;
}

}  // namespace

// `out` has room for a hash a byte; `out_offsets` [count + 1] says which are whose. Returns their number.
extern "C" int64_t word_hashes(const uint8_t *data, const int64_t *offsets, int64_t count, const uint16_t *flags,
                               const uint32_t *folded, uint64_t *out, int64_t *out_offsets) {
    Folding tables{flags, folded};
    int64_t at = out_offsets[0] = 0;
    for (int64_t i = 0; i < count; i++) {
        at += words_of(data + offsets[i], offsets[i + 1] - offsets[i], tables, out + at);
        out_offsets[i + 1] = at;
    }
    return at;
}

// The hash of the `size` words from each word on, `count` of them: a block at a time, so that it stays in the
// cache and the inner loop is one of vectors.
extern "C" void ngram_hashes(const uint64_t *words, int64_t count, int64_t size, uint64_t *out) {
    constexpr int64_t BLOCK = 1024;
    for (int64_t from = 0; from < count; from += BLOCK) {
        const int64_t length = count - from < BLOCK ? count - from : BLOCK;
        uint64_t *__restrict value = out + from;
        memcpy(value, words + from, length * sizeof *value);
        for (int64_t position = 1; position < size; position++) {
            const uint64_t *__restrict next = words + from + position;
            for (int64_t i = 0; i < length; i++) value[i] = mix(value[i] * FACTOR, next[i]);
        }
    }
}

// For each line (pieces between line feeds) the hash of its folded letters, a number as one 0, and how many they are.
extern "C" void line_hashes(const uint8_t *data, const int64_t *offsets, int64_t count, const uint16_t *flags,
                            const uint32_t *folded, uint64_t *out, int32_t *letters) {
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *text = data + offsets[i];
        const int64_t size = offsets[i + 1] - offsets[i];
        uint64_t hash = EMPTY;
        int32_t length = 0;
        bool number = false;
        for (int64_t at = 0; at < size;) {
            uint32_t code = decode(text, at), letter = look(folded, code);
            if (!letter) continue;
            bool digit = look(flags, code) & DIGIT;
            if (!(digit && number)) hash = mix(hash, digit ? '0' : letter), length++;
            number = digit;
        }
        out[i] = hash, letters[i] = length;
    }
}
