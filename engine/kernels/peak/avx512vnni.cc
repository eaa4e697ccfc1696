#include "base/avx512.h"
#include "kernels/peak/peak.h"

namespace secateur {

int64_t peak_u8s8_avx512vnni(int64_t rounds, int32_t x, int32_t w) {
  constexpr int32_t kChains = 12;
  __m512i acc[kChains];
  for (int32_t i = 0; i < kChains; ++i) acc[i] = _mm512_set1_epi32(i);  // or they were one chain
  const __m512i tokens = _mm512_set1_epi8(static_cast<char>(x)), weights = _mm512_set1_epi8(static_cast<char>(w));
  for (; rounds > 0; --rounds)
#pragma GCC unroll 12
    for (int32_t i = 0; i < kChains; ++i) acc[i] = dpbusd(acc[i], tokens, weights);
  int64_t sum = 0;
  for (int32_t i = 0; i < kChains; ++i) {
    alignas(64) int32_t lanes[16];
    _mm512_store_si512(lanes, acc[i]);
    for (const int32_t lane : lanes) sum += lane - i;
  }
  return sum;
}

}  // namespace secateur
