// int8: two vpmaddubsw share one vpmaddwd, the cheapest form that a kernel uses (spmm_u8s8 on a pair of blocks).
#include <immintrin.h>

#include <cstdint>

#include "kernels/peak/peak.h"

namespace secateur {
namespace {

// Keeps the compiler from knowing a value: what does not change would be multiplied once for all rounds.
__attribute__((always_inline)) inline void forget(__m256i& value) { asm volatile("" : "+x"(value)); }

}  // namespace

int64_t peak_u8s8_avx2(int64_t rounds, int32_t x, int32_t w) {
  constexpr int32_t kChains = 4;
  __m256i acc[kChains];
  for (__m256i& chain : acc) {
    chain = _mm256_setzero_si256();
    forget(chain);
  }
  __m256i tokens = _mm256_set1_epi8(static_cast<char>(x));
  const __m256i weights = _mm256_set1_epi8(static_cast<char>(w)), ones = _mm256_set1_epi16(1);
  for (; rounds > 0; --rounds)
#pragma GCC unroll 4
    for (int32_t i = 0; i < kChains; ++i) {
      forget(tokens);
      const __m256i first = _mm256_maddubs_epi16(tokens, weights);
      forget(tokens);
      const __m256i sum = _mm256_add_epi16(first, _mm256_maddubs_epi16(tokens, weights));
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(sum, ones));
    }
  int64_t sum = 0;
  for (const __m256i& chain : acc) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), chain);
    for (const int32_t lane : lanes) sum += lane;
  }
  return sum;
}

int64_t peak_f32_avx2(int64_t rounds, int32_t x, int32_t w) {
  constexpr int32_t kChains = 12;
  __m256 acc[kChains];
  for (int32_t i = 0; i < kChains; ++i) acc[i] = _mm256_set1_ps(static_cast<float>(i));  // or they were one chain
  const __m256 tokens = _mm256_set1_ps(static_cast<float>(x)), weights = _mm256_set1_ps(static_cast<float>(w));
  for (; rounds > 0; --rounds)
#pragma GCC unroll 12
    for (int32_t i = 0; i < kChains; ++i) acc[i] = _mm256_fmadd_ps(tokens, weights, acc[i]);
  int64_t sum = 0;
  for (int32_t i = 0; i < kChains; ++i) {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, acc[i]);
    for (const float lane : lanes) sum += static_cast<int64_t>(lane) - i;
  }
  return sum;
}

}  // namespace secateur
