#include <cstdint>

#include "base/avx512.h"
#include "kernels/round_bf16/round_bf16.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 16;

__attribute__((always_inline)) inline __m512i load(const float* x) {
  return _mm512_load_si512(reinterpret_cast<const __m512i*>(x));
}

__attribute__((always_inline)) inline __m512i round_lanes(__m512i bits) {
  const __m512i least = _mm512_castps_si512(_mm512_set1_ps(kLeastActivation)), one = _mm512_set1_epi32(1);
  const __m512i size = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __m512i high = _mm512_and_si512(up, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
  const __m512i rounded = _mm512_mask_mov_epi32(high, _mm512_cmpgt_epi32_mask(least, size), _mm512_setzero_si512());
  const __mmask16 nan = _mm512_cmpgt_epi32_mask(size, _mm512_set1_epi32(0x7f800000));
  return _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
}

}  // namespace

void round_bf16_avx512(const RoundBf16Args& args) {
  for (int32_t k = 0; k < args.cols; ++k)
    for (int32_t t = 0; t < args.tokens; t += kLanes)
      _mm512_store_si512(static_cast<float*>(args.out) + k * kTile + t, round_lanes(load(args.x + k * kTile + t)));
}

void round_bf16_pairs_avx512(const RoundBf16Args& args) {
  auto* out = static_cast<uint32_t*>(args.out);
  for (int32_t k = 0; k < args.cols; k += 2, out += kTile)
    for (int32_t t = 0; t < args.tokens; t += kLanes) {
      const float* const x = args.x + k * kTile + t;
      __m512i pair = round_lanes(load(x));
      if (k + 1 < args.cols) pair = _mm512_or_si512(pair, _mm512_srli_epi32(round_lanes(load(x + kTile)), 16));
      _mm512_store_si512(out + t, pair);
    }
}

}  // namespace secateur
