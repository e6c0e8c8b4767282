// C4's line rules: lines are kept or removed, texts kept or dropped. The plain twin is in steps/c4.py.
#include <algorithm>
#include <string>

#include "unicode.h"

namespace {

enum Removed { LONG_WORD, NO_TERMINAL, FEW_WORDS, JAVASCRIPT, POLICY, REMOVED };
enum Verdict : int8_t { KEPT, LOREM_IPSUM, CURLY_BRACKET, FEW_SENTENCES };
struct Options {
    int64_t max_word, min_words, min_sentences, citations, terminal, lorem, javascript, bracket, policy;
};

const char *const POLICIES[] = {"cookie policy", "uses cookies", "use of cookies", "use cookies"};

bool holds(const std::string &text, const char *words, size_t size) {
    return memmem(text.data(), text.size(), words, size) != nullptr;
}
template <size_t N>
bool holds(const std::string &text, const char (&words)[N]) { return holds(text, words, N - 1); }

class Page {
    const uint16_t *flags;
    const uint32_t *ends;
    const int64_t end_count;
    const Options &options;
    std::string line, lower;

public:
    std::string kept;
    int64_t sentences = 0;

    Page(const uint16_t *flags, const uint32_t *ends, int64_t end_count, const Options &options)
        : flags(flags), ends(ends), end_count(end_count), options(options) {}

    Verdict clean(const uint8_t *text, int64_t size, int64_t *removed) {
        kept.clear(), sentences = 0;
        bool first = true;
        for (int64_t at = 0; at < size;) {
            int64_t from = at, to = at;
            uint32_t code = 0;
            // A line of str.splitlines.
            while (at < size && !(look(flags, code = decode(text, at)) & BREAK)) to = at;
            if (code == '\r' && at < size && text[at] == '\n') at++;
            Verdict verdict = judge(text, from, to, removed, first);
            if (verdict != KEPT) return verdict;
        }
        strip();
        return sentences < options.min_sentences ? FEW_SENTENCES : KEPT;
    }

private:
    bool space(uint32_t code) const { return look(flags, code) & SPACE; }

    Verdict judge(const uint8_t *text, int64_t from, int64_t to, int64_t *removed, bool &first) {
        int64_t words = 0, longest = 0, word = 0, begin = -1, end = from;
        for (int64_t at = from; at < to;) {
            int64_t here = at;
            if (space(decode(text, at))) { word = 0; continue; }
            if (begin < 0) begin = here;
            words += !word;
            longest = std::max(longest, ++word), end = at;
        }
        if (longest > options.max_word) return removed[LONG_WORD]++, KEPT;
        line.assign((const char *)text + (begin < 0 ? from : begin), begin < 0 ? 0 : end - begin);
        if (options.citations) cite();
        if (options.terminal && !terminal()) return removed[NO_TERMINAL]++, KEPT;
        if (words < options.min_words) return removed[FEW_WORDS]++, KEPT;
        lower = line;
        for (char &c : lower) c = c >= 'A' && c <= 'Z' ? c + 32 : c;
        if (options.lorem && holds(lower, "lorem ipsum")) return LOREM_IPSUM;
        if (options.javascript && holds(lower, "javascript")) return removed[JAVASCRIPT]++, KEPT;
        if (options.bracket && line.find('{') != std::string::npos) return CURLY_BRACKET;
        if (options.policy && policy()) return removed[POLICY]++, KEPT;
        count_sentences();
        if (!first) kept += '\n';
        first = false;
        kept += line;
        return KEPT;
    }

    // Remove what matches \[\d*]|\[edit]|\[citation needed].
    void cite() {
        if (line.find('[') == std::string::npos) return;
        std::string rest;
        const uint8_t *text = (const uint8_t *)line.data();
        for (size_t at = 0; at < line.size();) {
            size_t behind = line[at] == '[' ? citation(text, at + 1) : 0;
            if (behind) at = behind;
            else rest += line[at++];
        }
        line.swap(rest);
    }

    size_t citation(const uint8_t *text, size_t at) const {
        for (const char *words : {"edit]", "citation needed]"})
            if (line.compare(at, strlen(words), words) == 0) return at + strlen(words);
        int64_t next = at;
        while (at < line.size() && look(flags, decode(text, next)) & DIGIT) at = next;
        return at < line.size() && line[at] == ']' ? at + 1 : 0;
    }

    bool terminal() const {
        if (line.empty() || (line.size() >= 3 && line.compare(line.size() - 3, 3, "...") == 0)) return false;
        int64_t last = line.size() - 1;
        while ((line[last] & 0xc0) == 0x80) last--;
        uint32_t code = decode((const uint8_t *)line.data(), last);
        return std::find(ends, ends + end_count, code) != ends + end_count;
    }

    bool policy() const {
        if (holds(lower, "terms of use") || holds(lower, "privacy policy")) return true;
        if (!holds(lower, "cookie")) return false;
        for (const char *words : POLICIES)
            if (holds(lower, words, strlen(words))) return true;
        return false;
    }

    static bool mark(uint32_t c) { return c == '.' || c == '?' || c == '!' || c == 0x2026; }
    static bool closer(uint32_t c) {
        return c == '"' || c == '\'' || c == ')' || c == ']' || c == 0x201d || c == 0x2019;
    }

    // Pieces with a letter or digit between sentence ends.
    void count_sentences() {
        const uint8_t *text = (const uint8_t *)line.data();
        const int64_t size = line.size();
        bool open = false;
        for (int64_t at = 0; at < size;) {
            uint32_t code = decode(text, at);
            bool end = code == 0x3002 || code == 0xff01 || code == 0xff1f;
            if (mark(code)) {
                int64_t next = at;
                while (at < size && mark(decode(text, next))) at = next;
                next = at;
                while (next < size && closer(text[next] < 0x80 ? text[next] : peek(text, next))) decode(text, next);
                end = next == size || space(peek(text, next));
            }
            if (end) sentences += open, open = false;
            else open |= (look(flags, code) & (ALPHABETIC | DIGIT)) != 0;
        }
        sentences += open;
    }

    static uint32_t peek(const uint8_t *text, int64_t at) { return decode(text, at); }

    void strip() {
        const uint8_t *text = (const uint8_t *)kept.data();
        int64_t end = kept.size();
        while (end) {
            int64_t last = end - 1;
            while ((text[last] & 0xc0) == 0x80) last--;
            if (!space(peek(text, last))) break;
            end = last;
        }
        kept.resize(end);
        int64_t begin = 0;
        for (int64_t at = 0; at < end && space(decode(text, at));) begin = at;
        kept.erase(0, begin);
    }
};

}  // namespace

// Writes the texts, dropped ones unchanged, to `out` (as large as the input) with their offsets, and for each a
// verdict, its sentences and REMOVED counts of lines.
extern "C" void c4(const uint8_t *data, const int64_t *offsets, int64_t count, const uint16_t *flags,
                   const uint32_t *ends, int64_t end_count, const Options *options, uint8_t *out,
                   int64_t *out_offsets, int8_t *verdicts, int64_t *sentences, int64_t *removed) {
    Page page(flags, ends, end_count, *options);
    int64_t at = out_offsets[0] = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *text = data + offsets[i];
        int64_t size = offsets[i + 1] - offsets[i];
        verdicts[i] = page.clean(text, size, removed + i * REMOVED);
        sentences[i] = page.sentences;
        if (verdicts[i] == KEPT) text = (const uint8_t *)page.kept.data(), size = page.kept.size();
        if (size) memcpy(out + at, text, size);
        out_offsets[i + 1] = at += size;
    }
}
