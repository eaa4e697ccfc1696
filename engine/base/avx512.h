// AVX-512 intrinsics: the compiler's own, or, where SECATEUR_EMULATE_AVX512 is defined, plain code through SIMDe.
//
// The emulated form lets a CPU without AVX-512 test what the kernels compute, never how fast.
#pragma once
#include <cstdint>

#ifndef SECATEUR_EMULATE_AVX512

#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 takes the undefined operand inside its own intrinsics for ours (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace secateur {
namespace {

// acc + the sums of four u8 x s8 products, each lane on its own.
// Tied in place: g++ 12 copies every accumulator of _mm512_dpbusd_epi32 twice a trip in loops that hold many.
__attribute__((always_inline)) inline __m512i dpbusd(__m512i acc, __m512i x_u8, __m512i w_s8) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x_u8), "v"(w_s8));
  return acc;
}

// acc + x.high * w.high, rounded, + x.low * w.low, rounded: two bfloat16 in each word (AVX512_BF16).
__attribute__((always_inline)) inline __m512 dpbf16(__m512 acc, __m512 x, __m512 w) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
  return acc;
}

}  // namespace
}  // namespace secateur

#else

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

namespace secateur {
namespace {

inline __m512i dpbusd(__m512i acc, __m512i x_u8, __m512i w_s8) { return _mm512_dpbusd_epi32(acc, x_u8, w_s8); }

// As Intel's manual has it: denormals are taken for 0 and never made.
inline __m512 dpbf16(__m512 acc, __m512 x, __m512 w) {
  const auto flush = [](float v) { return __builtin_fabsf(v) < 0x1p-126f ? 0.0f : v; };
  const auto half = [&](uint32_t word) {
    float value;
    __builtin_memcpy(&value, &word, sizeof(value));
    return flush(value);
  };
  float sums[16];
  uint32_t tokens[16], weights[16];
  __builtin_memcpy(sums, &acc, sizeof(sums));
  __builtin_memcpy(tokens, &x, sizeof(tokens));
  __builtin_memcpy(weights, &w, sizeof(weights));
  for (int i = 0; i < 16; ++i) {
    const float high = __builtin_fmaf(half(tokens[i] & 0xffff0000u), half(weights[i] & 0xffff0000u), flush(sums[i]));
    sums[i] = flush(__builtin_fmaf(half(tokens[i] << 16), half(weights[i] << 16), flush(high)));
  }
  __builtin_memcpy(&acc, sums, sizeof(sums));
  return acc;
}

// What SIMDe 0.7 lacks or does otherwise (its abs_ps leaves -0 as it is), from AVX2 halves and plain loops.
namespace emulated {

template <class To, class From>
To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

struct Halves {
  __m256i half[2];
};

inline __m512 cvtepi32_ps(__m512i v) {
  Halves h = bits<Halves>(v);
  for (__m256i& half : h.half) half = _mm256_castps_si256(_mm256_cvtepi32_ps(half));
  return bits<__m512>(h);
}

inline __m512i cvtps_epi32(__m512 v) {
  Halves h = bits<Halves>(v);
  for (__m256i& half : h.half) half = _mm256_cvtps_epi32(_mm256_castsi256_ps(half));
  return bits<__m512i>(h);
}

inline __m512 abs_ps(__m512 v) {
  Halves h = bits<Halves>(v);
  for (__m256i& half : h.half) half = _mm256_and_si256(half, _mm256_set1_epi32(0x7fffffff));
  return bits<__m512>(h);
}

inline __m512i cvtepi8_epi32(__m128i v) {
  const Halves h{{_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))}};
  return bits<__m512i>(h);
}

inline __m512i cvtepu16_epi32(__m256i v) {
  const Halves h{
      {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(v)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(v, 1))}};
  return bits<__m512i>(h);
}

template <int kOrder>
__m512i shuffle_epi32(__m512i v) {
  Halves h = bits<Halves>(v);
  for (__m256i& half : h.half) half = _mm256_shuffle_epi32(half, kOrder);
  return bits<__m512i>(h);
}

inline __m512i maskz_loadu_epi32(uint32_t mask, const void* from) {
  int32_t lanes[16] = {};
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) __builtin_memcpy(lanes + i, static_cast<const int32_t*>(from) + i, 4);
  return bits<__m512i>(lanes);
}

inline void mask_storeu_epi32(void* to, uint32_t mask, __m512i v) {
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) __builtin_memcpy(static_cast<int32_t*>(to) + i, reinterpret_cast<const char*>(&v) + 4 * i, 4);
}

inline __m128i maskz_loadu_epi8(uint32_t mask, const void* from) {
  int8_t lanes[16] = {};
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) lanes[i] = static_cast<const int8_t*>(from)[i];
  return bits<__m128i>(lanes);
}

}  // namespace emulated
}  // namespace
}  // namespace secateur

#undef _mm512_abs_ps
#define _mm512_abs_ps(v) emulated::abs_ps(v)
#define _mm512_cvtepi32_ps(v) emulated::cvtepi32_ps(v)
#define _mm512_cvtps_epi32(v) emulated::cvtps_epi32(v)
#define _mm512_cvtepi8_epi32(v) emulated::cvtepi8_epi32(v)
#define _mm512_cvtepu16_epi32(v) emulated::cvtepu16_epi32(v)
#define _mm512_shuffle_epi32(v, order) emulated::shuffle_epi32<order>(v)
#define _mm512_maskz_loadu_epi32(mask, from) emulated::maskz_loadu_epi32(mask, from)
#define _mm512_mask_storeu_epi32(to, mask, v) emulated::mask_storeu_epi32(to, mask, v)
#define _mm_maskz_loadu_epi8(mask, from) emulated::maskz_loadu_epi8(mask, from)
#define _mm512_shuffle_f32x4(a, b, order) \
  _mm512_castsi512_ps(_mm512_shuffle_i32x4(_mm512_castps_si512(a), _mm512_castps_si512(b), order))

#endif
