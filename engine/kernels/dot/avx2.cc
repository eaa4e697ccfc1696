// Three rows by two tokens, or six rows by one, in registers: twelve chains hide the latency of the multipliers, and
// with two tokens 10 loads go with 12 multiplications.
#include <immintrin.h>

#include <cstdint>

#include "kernels/dot/dot.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 8;

inline __m256 load(const float* p) { return _mm256_loadu_ps(p); }
inline __m256 load(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

inline float add_up(__m256 low, __m256 high) {
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// The next 16 columns; the rows of x and w lie `x_step` and `w_step` values apart.
template <int kRows, int kTokens, class T>
inline void step(const T* w, int64_t w_step, const float* x, int64_t x_step, __m256 (&s)[kRows][kTokens][2]) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    __m256 weights[kRows];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      weights[r] = load(w + r * w_step + half * kLanes);
      // Kept in a register: g++ 12 loads it again for the second token, and 16 loads take longer than 12 products.
      if constexpr (kTokens > 1) asm("" : "+x"(weights[r]));
    }
#pragma GCC unroll 2
    for (int t = 0; t < kTokens; ++t) {
      const __m256 token = load(x + t * x_step + half * kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) s[r][t][half] = _mm256_fmadd_ps(token, weights[r], s[r][t][half]);
    }
  }
}

template <int kRows, int kTokens, class T>
inline void multiply_block(const DotArgs& args, const T* w, int32_t n, int32_t first_token) {
  const int64_t cols = args.k;
  const float* x = args.x + first_token * cols;
  w += n * cols;
  __m256 s[kRows][kTokens][2];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int t = 0; t < kTokens; ++t) s[r][t][0] = s[r][t][1] = _mm256_setzero_ps();
  int64_t k = 0;
  for (; k + kDotLanes <= cols; k += kDotLanes) step<kRows, kTokens>(w + k, cols, x + k, cols, s);
  if (k < cols) {
    T last_w[kRows][kDotLanes] = {};
    float last_x[kTokens][kDotLanes] = {};
    for (int64_t i = 0; k + i < cols; ++i) {
      for (int r = 0; r < kRows; ++r) last_w[r][i] = w[r * cols + k + i];
      for (int t = 0; t < kTokens; ++t) last_x[t][i] = x[t * cols + k + i];
    }
    step<kRows, kTokens>(last_w[0], kDotLanes, last_x[0], kDotLanes, s);
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int t = 0; t < kTokens; ++t)
      args.y[(first_token + t) * args.token_stride + (n + r) * args.row_stride] = add_up(s[r][t][0], s[r][t][1]);
}

// All tokens of kRows rows, which stay in the first cache.
template <int kRows, class T>
inline void multiply_rows(const DotArgs& args, const T* w, int32_t n) {
  int32_t t = 0;
  for (; t + 2 <= args.tokens; t += 2) multiply_block<kRows, 2>(args, w, n, t);
  if (t < args.tokens) multiply_block<kRows, 1>(args, w, n, t);
}

template <class T>
void multiply(const DotArgs& given, const T* w) {
  const DotArgs args = given;  // a copy: no store can alias it
  int32_t n = 0;
  if (args.tokens == 1) {
    for (; n + 6 <= args.rows; n += 6) multiply_block<6, 1>(args, w, n, 0);
  }
  for (; n + 3 <= args.rows; n += 3) multiply_rows<3>(args, w, n);
  for (; n < args.rows; ++n) multiply_rows<1>(args, w, n);
}

}  // namespace

void dot_avx2(const DotArgs& args) {
  return args.w_s8 != nullptr ? multiply(args, args.w_s8) : multiply(args, args.w_f32);
}

}  // namespace secateur
