// Number formats and the exponential that the kernels share. Written so that the compiler vectorises it.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

using bf16 = uint16_t;

static inline float widen(bf16 x) {
    uint32_t bits = static_cast<uint32_t>(x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}
static inline float widen(float x) { return x; }

// Round to nearest, ties to even; a NaN stays a NaN.
static inline void narrow(float x, bf16 &out) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    out = static_cast<bf16>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
static inline void narrow(float x, float &out) { out = x; }

// exp(x) to about 2 units in the last place: 2^n * p(r), n = round(x / ln 2); Cephes' coefficients.
static inline float fast_exp(float x) {
    float clipped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    float n = std::nearbyint(clipped * 1.44269504088896341f);
    float r = clipped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return x != x ? x : p * scale;
}
