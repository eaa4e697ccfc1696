#include "base/avx512.h"
#include "kernels/peak/peak.h"

namespace secateur {

int64_t peak_bf16_avx512bf16(int64_t rounds, int32_t x, int32_t w) {
  constexpr int32_t kChains = 12;
  __m512 acc[kChains];
  for (int32_t i = 0; i < kChains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));  // or they were one chain
  const auto twice = [](int32_t value) {  // a bfloat16 in both halves of each word
    const __m512i high = _mm512_castps_si512(_mm512_set1_ps(static_cast<float>(value)));
    return _mm512_castsi512_ps(_mm512_or_si512(high, _mm512_srli_epi32(high, 16)));
  };
  const __m512 tokens = twice(x), weights = twice(w);
  for (; rounds > 0; --rounds)
#pragma GCC unroll 12
    for (int32_t i = 0; i < kChains; ++i) acc[i] = dpbf16(acc[i], tokens, weights);
  int64_t sum = 0;
  for (int32_t i = 0; i < kChains; ++i) {
    alignas(64) float lanes[16];
    _mm512_store_ps(lanes, acc[i]);
    for (const float lane : lanes) sum += static_cast<int64_t>(lane) - i;
  }
  return sum;
}

}  // namespace secateur
