// Figures of texts for the junk rules; the plain twin is measure_plain in measure.py. One call takes a batch as
// Arrow holds it: the bytes of all texts and the offset of each.
#include "unicode.h"

namespace {

struct Lines {
    int64_t longest = 0, count = 0, chars = 0, repeated = 0;

    void add(const uint8_t *text, int64_t from, int64_t to, Places &places) {
        bool added;
        int64_t length = characters(text, from, to);
        places.insert(hash_bytes(text + from, to - from), added);
        count++, chars += length;
        if (!added) repeated += length;
        if (length > longest) longest = length;
    }
};

}  // namespace

// A row of `out` has the characters of each of `kinds` classes, then white space, the longest line, lines,
// characters in lines and those in lines that repeat an earlier one.
extern "C" void measure(const uint8_t *data, const int64_t *offsets, int64_t count, const uint8_t *classes,
                        int64_t kinds, int64_t *out) {
    Places places;
    for (int64_t i = 0; i < count; i++, out += kinds + 5) {
        const uint8_t *text = data + offsets[i];
        int64_t size = offsets[i + 1] - offsets[i], feeds = 0, spaces = 0;
        memset(out, 0, sizeof(int64_t) * (kinds + 5));
        for (int64_t at = 0; at < size;) {
            uint32_t code = decode(text, at);
            out[look(classes, code)]++;
            spaces += code == 0x20 || (code >= 0x09 && code <= 0x0d) || code == 0x3000;
            feeds += code == '\n';
        }
        Lines lines;
        places.clear(feeds + 1);
        for (int64_t from = 0;;) {
            const void *found = from < size ? memchr(text + from, '\n', size - from) : nullptr;
            int64_t to = found ? (const uint8_t *)found - text : size;
            lines.add(text, from, to, places);
            if (!found) break;
            from = to + 1;
        }
        int64_t *rest = out + kinds;
        rest[0] = spaces, rest[1] = lines.longest, rest[2] = lines.count, rest[3] = lines.chars;
        rest[4] = lines.repeated;
    }
}
