// Matrix tiles (AMX): whether this build and this process have them, and their registers.
#pragma once

#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && \
    defined(__AVX512VNNI__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#define WEFT_TILES 1

namespace tiles {

constexpr long SIDE = 16, BLOCK = 2 * SIDE;  // lines of a tile; rows that are worked on together
constexpr long STEP = 64;                    // bytes of a line

// Linux gives the registers to a process that asks for them. WEFT_TILES=off leaves them alone: the vector kernels
// then compute the same bits.
static inline bool granted() {
    constexpr long REQUEST = 0x1023, DATA = 18;
    const char *wish = std::getenv("WEFT_TILES");
    return !(wish && !std::strcmp(wish, "off")) && syscall(SYS_arch_prctl, REQUEST, DATA) == 0;
}
static const bool in_use = granted();

// What was written before is in memory: for GCC a load into a tile reads nothing, so it might leave stores out or move
// them behind it.
static inline void settle(const void *at) { __asm__ volatile("" : : "r"(at) : "memory"); }

// Numbers below the normal ones count as zeros, as they do in tiles, while it lives.
struct Flush {
    const unsigned before = _mm_getcsr();
    Flush() { _mm_setcsr(before | 0x8040); }
    ~Flush() { _mm_setcsr(before); }
};

// While it lives, this thread's eight tiles have lines of 64 bytes: 16, or as many as there are rows in those that hold
// rows of the first half of a block and their sums (0 to 4), since what is not there need not be fetched.
struct Registers : Flush {
    explicit Registers(long rows = SIDE) {
        if (!in_use) return;
        struct {
            uint8_t palette = 1, start = 0, none[14] = {};
            uint16_t bytes[16] = {};
            uint8_t lines[16] = {};
        } shape;
        for (int t = 0; t < 8; t++) shape.bytes[t] = STEP, shape.lines[t] = SIDE;
        if (rows < SIDE) for (int t = 0; t < 5; t++) shape.lines[t] = rows;
        settle(&shape);
        _tile_loadconfig(&shape);
    }
    ~Registers() {
        if (in_use) _tile_release();
    }
};

// A line of bf16 numbers in pairs, as tiles read them: the first of each pair, and the second, in fp32.
static inline __m512 firsts(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
static inline __m512 seconds(__m512i pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
}

}  // namespace tiles
#endif
