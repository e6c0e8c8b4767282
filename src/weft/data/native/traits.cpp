// Which kinds of characters each text holds; the plain twin is traits_plain in traits.py.
#include "unicode.h"

// `out` is the union of the table's entries over the characters of each text. The first two bits are a lead
// and a follower: `PAIR` is added where one stands right before the other.
extern "C" void traits(const uint8_t *data, const int64_t *offsets, int64_t count, const uint16_t *table,
                       uint16_t *out) {
    constexpr uint16_t LEAD = 1, FOLLOWER = 2, PAIR = 4;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *text = data + offsets[i];
        int64_t size = offsets[i + 1] - offsets[i];
        uint16_t all = 0, before = 0;
        for (int64_t at = 0; at < size;) {
            uint16_t here = look(table, decode(text, at));
            all |= here;
            if (before & LEAD && here & FOLLOWER) all |= PAIR;
            before = here;
        }
        out[i] = all;
    }
}
