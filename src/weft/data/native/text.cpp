// Statistics of texts for the quality rules: words, lines, repetition, Chinese. The plain twin is
// textstats_plain.py, whose docstring says what each figure is. One call takes a batch as Arrow holds it:
// the bytes of all texts and the offset of each.
#include "unicode.h"

namespace {

enum Column {
    CHARS, WORDS, PLAIN_WORDS, PLAIN_WORD_CHARS, ALPHA_WORDS, STOP_WORDS, HASHES, ELLIPSES,
    LINES, BULLET_LINES, ELLIPSIS_LINES,
    PARAGRAPHS, DUP_PARAGRAPHS, DUP_PARAGRAPH_CHARS, ROWS, DUP_ROWS, DUP_ROW_CHARS,
    TOP_2, TOP_3, TOP_4, DUP_5, DUP_6, DUP_7, DUP_8, DUP_9, DUP_10,
    FULL_LINES, ENDED_LINES, SHORT_LINES, DUP_FULL_LINE_CHARS, LINE_FEEDS,
    VISIBLE, LETTERS, HAN_CHARS, MARKS, FUNCTION_CHARS, RUN_CHARS, SENTENCES,
    COLUMNS
};
constexpr int64_t RUN = 5;  // equal characters in a row from which they count as a run

struct Stops { std::vector<uint64_t> hashes; uint64_t filter = 0; };

struct Words {
    std::vector<uint64_t> hash;
    std::vector<int64_t> begin, spread;  // running sums: characters before a word, and with joints counted
    std::vector<uint8_t> han;
    std::vector<uint64_t> gram;
    std::vector<uint32_t> count, first, place;
    std::vector<uint8_t> again, four;
};

class Text {
    const uint8_t *text;
    const int64_t size;
    const uint16_t *flags;
    const Stops &stops;
    Words &words;
    Places &places;
    int64_t *out;
    uint64_t stopped = 0;

public:
    Text(const uint8_t *text, int64_t size, const uint16_t *flags, const Stops &stops, Words &words, Places &places,
         int64_t *out)
        : text(text), size(size), flags(flags), stops(stops), words(words), places(places), out(out) {}

    void measure(int64_t short_line) {
        std::fill(out, out + COLUMNS, 0);
        walk();
        out[STOP_WORDS] = __builtin_popcountll(stopped);
        rows();
        paragraphs();
        full_lines(short_line);
        ngrams();
    }

private:
    void add_word(int64_t from, int64_t to, int64_t chars, bool plain, bool alpha, bool han) {
        uint64_t hash = hash_bytes(text + from, to - from);
        words.hash.push_back(hash);
        words.han.push_back(han);
        words.begin.push_back(words.begin.back() + chars);
        out[PLAIN_WORDS] += plain;
        out[PLAIN_WORD_CHARS] += plain ? chars : 0;
        out[ALPHA_WORDS] += alpha;
        if (stops.filter >> (hash & 63) & 1)
            for (size_t i = 0; i < stops.hashes.size(); i++)
                if (stops.hashes[i] == hash) stopped |= 1ull << i;
    }

    // Characters, words and the lines of str.splitlines in one walk. A chunk lies between white space and Han
    // characters; the symbols at its ends are words of their own.
    void walk() {
        words.hash.clear(), words.han.clear(), words.begin.assign(1, 0);
        int64_t at = 0, index = 0;
        int64_t begin = -1, core = -1, core_end = 0;                        // bytes of the open chunk
        int64_t begin_index = 0, core_index = 0, core_end_index = 0;          // the same in characters
        bool alpha = false;
        bool line_open = false,  line_seen = false, tail_ellipsis = false, ended_return = false, letter = false;
        int64_t dots = 0, dot_run = 0, run = 0;
        uint32_t last = 0xffffffff;
        auto close = [&](int64_t end) {
            if (begin < 0) return;
            if (core < 0) {
                add_word(begin, end, index - begin_index, false, false, false);
            } else {
                if (core > begin) add_word(begin, core, core_index - begin_index, false, false, false);
                add_word(core, core_end, core_end_index - core_index, true, alpha, false);
                if (end > core_end) add_word(core_end, end, index - core_end_index, false, false, false);
            }
            begin = core = -1, alpha = false;
        };
        auto end_line = [&]() {
            out[LINES]++;
            out[ELLIPSIS_LINES] += tail_ellipsis || dots >= 3;
            line_open = line_seen = tail_ellipsis = false, dots = 0;
        };
        while (at < size) {
            int64_t here = at;
            uint32_t code = decode(text, at);
            uint16_t flag = look(flags, code);
            // Words.
            if (flag & (SPACE | HAN)) {
                close(here);
                if (flag & HAN) index++, add_word(here, at, 1, true, true, true), index--;
            } else {
                if (begin < 0) begin = here, begin_index = index;
                if (!(flag & SYMBOL)) {
                    if (core < 0) core = here, core_index = index;
                    core_end = at, core_end_index = index + 1;
                }
                alpha |= flag & ALPHABETIC;
            }
            // Characters.
            if (code == '#') out[HASHES]++;
            dot_run = code == '.' ? dot_run + 1 : 0;
            if (dot_run == 3) out[ELLIPSES]++, dot_run = 0;
            if (code == 0x2026) out[ELLIPSES]++;
            if (flag & ALPHABETIC) out[LETTERS]++, letter = true;
            out[HAN_CHARS] += (flag & HAN) != 0;
            out[MARKS] += (flag & MARK) != 0;
            out[FUNCTION_CHARS] += (flag & FUNCTION) != 0;
            if ((flag & ENDING || code == '\n') && letter) out[SENTENCES]++, letter = false;
            if (flag & SPACE) run = 0;
            else {
                out[VISIBLE]++;
                run = code == last ? run + 1 : 1;
                if (run == RUN) out[RUN_CHARS] += RUN;
                else if (run > RUN) out[RUN_CHARS]++;
            }
            // Lines.
            if (flag & BREAK) {
                if (!(code == '\n' && ended_return)) end_line();
            } else {
                line_open = true;
                if (!(flag & SPACE)) {
                    if (!line_seen) line_seen = true, out[BULLET_LINES] += code == 0x2022 || code == '-';
                    dots = code == '.' ? (last == '.' ? dots + 1 : 1) : 0;
                    tail_ellipsis = code == 0x2026;
                }
            }
            ended_return = code == '\r';
            last = code;
            index++;
        }
        close(size);
        if (line_open) end_line();
        if (letter) out[SENTENCES]++;
        out[CHARS] = index;
        out[WORDS] = words.hash.size();
    }

    // Count elements that repeat an earlier one.
    void repeat(int64_t from, int64_t to, int64_t &count, int64_t &chars) {
        bool added;
        places.insert(hash_bytes(text + from, to - from), added);
        if (!added) count++, chars += characters(text, from, to);
    }

    int64_t feed(int64_t from, int64_t to) const {
        const void *found = memchr(text + from, '\n', to - from);
        return found ? (const uint8_t *)found - text : to;
    }

    // Pieces between runs of line feeds, empty ones at the ends of the text included.
    void rows() {
        int64_t feeds = 0;
        for (int64_t i = 0; i < size; i++) feeds += text[i] == '\n';
        out[LINE_FEEDS] = feeds;
        places.clear(feeds + 1);
        for (int64_t from = 0;;) {
            int64_t to = feed(from, size);
            out[ROWS]++;
            repeat(from, to, out[DUP_ROWS], out[DUP_ROW_CHARS]);
            if (to == size) return;
            for (from = to; from < size && text[from] == '\n';) from++;
        }
    }

    bool space_at(int64_t at) const { return look(flags, decode(text, at)) & SPACE; }

    // Pieces of the stripped text between runs of two or more line feeds.
    void paragraphs() {
        int64_t from = 0, end = size;
        while (from < end && space_at(from)) decode(text, from);
        for (int64_t back = end; back > from; end = back) {
            do back--; while ((text[back] & 0xc0) == 0x80);
            if (!space_at(back)) break;
        }
        places.clear(out[LINE_FEEDS] / 2 + 1);
        for (int64_t at = from;;) {
            int64_t to = feed(at, end), next = to;
            while (next < end && text[next] == '\n') next++;
            if (next - to == 1) { at = next; continue; }
            out[PARAGRAPHS]++;
            repeat(from, to, out[DUP_PARAGRAPHS], out[DUP_PARAGRAPH_CHARS]);
            if (to == end) return;
            from = at = next;
        }
    }

    // Lines that hold more than white space.
    void full_lines(int64_t short_line) {
        places.clear(out[LINE_FEEDS] + 1);
        int64_t ignored = 0;
        for (int64_t from = 0; from <= size;) {
            int64_t to = feed(from, size), at = from;
            while (at < to && space_at(at)) decode(text, at);
            if (at < to) {
                out[FULL_LINES]++;
                int64_t last = to - 1;
                while ((text[last] & 0xc0) == 0x80) last--;
                out[ENDED_LINES] += (look(flags, decode(text, last)) & TERMINAL) != 0;
                out[SHORT_LINES] += characters(text, from, to) <= short_line;
                repeat(from, to, ignored, out[DUP_FULL_LINE_CHARS]);
            }
            from = to + 1;
        }
    }

    void ngrams() {
        int64_t count = words.hash.size();
        words.spread.resize(count + 1), words.spread[0] = 0;
        for (int64_t i = 0; i < count; i++) {
            bool joint = i && !(words.han[i] || words.han[i - 1]);
            words.spread[i + 1] = words.spread[i] + joint;
        }
        words.gram.assign(words.hash.begin(), words.hash.end());
        for (int64_t n = 2; n <= 10; n++) {
            int64_t last = count - n + 1;
            if (last < 1) return;
            // The first factor keeps "a b" apart from "b a".
            for (int64_t i = 0; i < last; i++)
                words.gram[i] = mix(words.gram[i] * 0xC2B2AE3D27D4EB4Full, words.hash[i + n - 1]);
            if (n <= 4) out[TOP_2 + n - 2] = top(n, last);
            if (n == 4) words.four.assign(words.again.begin(), words.again.end());
            if (n >= 5) out[DUP_5 + n - 5] = duplicates(n, last);
            // Without a repeated n-gram there is no longer one.
            if (n >= 5 && !out[DUP_5 + n - 5]) return;
        }
    }

    // Characters of all occurrences of the commonest n-gram; of equally common ones the first. `again` says
    // where an n-gram begins that occurs more than once: no longer one need be looked for elsewhere.
    int64_t top(int64_t n, int64_t last) {
        constexpr uint32_t NONE = 0xffffffff;
        if (n == 2) words.again.assign(last + 1, 1);
        places.clear(last);
        words.count.clear(), words.first.clear(), words.place.resize(last);
        uint32_t most = 0;
        for (int64_t i = 0; i < last; i++) {
            words.place[i] = NONE;
            if (!(words.again[i] && words.again[i + 1])) continue;
            bool added;
            uint32_t place = words.place[i] = places.insert(words.gram[i], added);
            if (added) words.count.push_back(0), words.first.push_back(i);
            if (++words.count[place] > most) most = words.count[place];
        }
        for (int64_t i = 0; i < last; i++)
            words.again[i] = words.place[i] != NONE && words.count[words.place[i]] > 1;
        if (most < 2) return length(0, n);
        size_t place = 0;
        while (words.count[place] != most) place++;
        return most * length(words.first[place], n);
    }

    int64_t length(int64_t i, int64_t n) const {
        return words.begin[i + n] - words.begin[i] + words.spread[i + n] - words.spread[i + 1];
    }

    // Characters of n-grams that repeat an earlier one, none counted twice.
    int64_t duplicates(int64_t n, int64_t last) {
        places.clear(last);
        for (int64_t i = 0; i < last; i++) words.again[i] &= words.four[i + n - 4];
        int64_t chars = 0;
        for (int64_t i = 0; i < last;) {
            bool added = true;
            if (words.again[i]) places.insert(words.gram[i], added);
            if (added) i++;
            else chars += words.begin[i + n] - words.begin[i], i += n;
        }
        return chars;
    }
};

}  // namespace

// `out` has a row of COLUMNS int64 for each text; stop words come as texts do, at most 64.
extern "C" void text_stats(const uint8_t *data, const int64_t *offsets, int64_t count, const uint16_t *flags,
                           const uint8_t *stop_data, const int64_t *stop_offsets, int64_t stop_count,
                           int64_t short_line, int64_t *out) {
    Stops stops;
    for (int64_t i = 0; i < stop_count; i++) {
        uint64_t hash = hash_bytes(stop_data + stop_offsets[i], stop_offsets[i + 1] - stop_offsets[i]);
        stops.hashes.push_back(hash), stops.filter |= 1ull << (hash & 63);
    }
    Words words;
    Places places;
    for (int64_t i = 0; i < count; i++)
        Text(data + offsets[i], offsets[i + 1] - offsets[i], flags, stops, words, places, out + i * COLUMNS)
            .measure(short_line);
}
