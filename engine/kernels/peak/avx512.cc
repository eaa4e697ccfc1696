#include "base/avx512.h"
#include "kernels/peak/peak.h"

namespace secateur {

int64_t peak_f32_avx512(int64_t rounds, int32_t x, int32_t w) {
  constexpr int32_t kChains = 12;
  __m512 acc[kChains];
  for (int32_t i = 0; i < kChains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));  // or they were one chain
  const __m512 tokens = _mm512_set1_ps(static_cast<float>(x)), weights = _mm512_set1_ps(static_cast<float>(w));
  for (; rounds > 0; --rounds)
#pragma GCC unroll 12
    for (int32_t i = 0; i < kChains; ++i) acc[i] = _mm512_fmadd_ps(tokens, weights, acc[i]);
  int64_t sum = 0;
  for (int32_t i = 0; i < kChains; ++i) {
    alignas(64) float lanes[16];
    _mm512_store_ps(lanes, acc[i]);
    for (const float lane : lanes) sum += static_cast<int64_t>(lane) - i;
  }
  return sum;
}

}  // namespace secateur
