#include <immintrin.h>

#include <cstdint>

#include "kernels/round_bf16/round_bf16.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 8;

__attribute__((always_inline)) inline __m256i round_lanes(__m256i bits) {
  const __m256i least = _mm256_castps_si256(_mm256_set1_ps(kLeastActivation)), one = _mm256_set1_epi32(1);
  const __m256i size = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
  const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i high = _mm256_and_si256(up, _mm256_set1_epi32(static_cast<int>(0xffff0000u)));
  const __m256i rounded = _mm256_andnot_si256(_mm256_cmpgt_epi32(least, size), high);
  const __m256i infinity = _mm256_set1_epi32(0x7f800000), nan = _mm256_set1_epi32(0x7fc00000);
  return _mm256_blendv_epi8(rounded, nan, _mm256_cmpgt_epi32(size, infinity));
}

}  // namespace

void round_bf16_avx2(const RoundBf16Args& args) {
  for (int32_t k = 0; k < args.cols; ++k) {
    const auto* x = reinterpret_cast<const __m256i*>(args.x + k * kTile);
    auto* out = reinterpret_cast<__m256i*>(static_cast<float*>(args.out) + k * kTile);
    for (int32_t t = 0; t < args.tokens; t += kLanes) _mm256_store_si256(out++, round_lanes(_mm256_load_si256(x++)));
  }
}

}  // namespace secateur
