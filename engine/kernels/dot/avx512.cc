// Four rows by four tokens, or eight rows by one, in registers.
#include <cstdint>

#include "base/avx512.h"
#include "kernels/dot/dot.h"

namespace secateur {
namespace {

inline __m512 load(const float* p) { return _mm512_loadu_ps(p); }
inline __m512 load(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline __m512 load_some(const float* p, uint32_t mask) {
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi32(static_cast<__mmask16>(mask), p));
}
inline __m512 load_some(const int8_t* p, uint32_t mask) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(static_cast<__mmask16>(mask), p)));
}

inline float add_up(__m512 s) {
  const __m256 eight = _mm512_castps512_ps256(_mm512_add_ps(s, _mm512_shuffle_f32x4(s, s, 0x4e)));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

template <int kRows, int kTokens, class T>
inline void multiply_block(const DotArgs& args, const T* w, int32_t n, int32_t first_token) {
  const int64_t cols = args.k;
  const float* x = args.x + first_token * cols;
  w += n * cols;
  __m512 s[kRows][kTokens];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) s[r][t] = _mm512_setzero_ps();
  int64_t k = 0;
  for (; k + kDotLanes <= cols; k += kDotLanes) {
    __m512 tokens[kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) tokens[t] = load(x + t * cols + k);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512 weights = load(w + r * cols + k);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) s[r][t] = _mm512_fmadd_ps(tokens[t], weights, s[r][t]);
    }
  }
  if (k < cols) {
    const uint32_t mask = (1u << (cols - k)) - 1;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t)
        s[r][t] = _mm512_fmadd_ps(load_some(x + t * cols + k, mask), load_some(w + r * cols + k, mask), s[r][t]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t)
      args.y[(first_token + t) * args.token_stride + (n + r) * args.row_stride] = add_up(s[r][t]);
}

// All tokens of kRows rows, which stay in the first cache.
template <int kRows, class T>
inline void multiply_rows(const DotArgs& args, const T* w, int32_t n) {
  int32_t t = 0;
  for (; t + 4 <= args.tokens; t += 4) multiply_block<kRows, 4>(args, w, n, t);
  for (; t < args.tokens; ++t) multiply_block<kRows, 1>(args, w, n, t);
}

template <class T>
void multiply(const DotArgs& given, const T* w) {
  const DotArgs args = given;  // a copy: no store can alias it
  int32_t n = 0;
  if (args.tokens < 4)
    for (; n + 8 <= args.rows; n += 8)
      for (int32_t t = 0; t < args.tokens; ++t) multiply_block<8, 1>(args, w, n, t);
  for (; n + 4 <= args.rows; n += 4) multiply_rows<4>(args, w, n);
  for (; n < args.rows; ++n) multiply_rows<1>(args, w, n);
}

}  // namespace

void dot_avx512(const DotArgs& args) {
  return args.w_s8 != nullptr ? multiply(args, args.w_s8) : multiply(args, args.w_f32);
}

}  // namespace secateur
