// Eight tokens a pass down the columns: first the largest values, then four columns at a time to bytes.
#include <immintrin.h>

#include <cstdint>

#include "kernels/quantize_rows/quantize_rows.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 8;
constexpr float kSmallestScale = 0x1p-126f;

inline __m256 absolute(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

// The second operand of max is what a NaN in the first leaves. Four chains: max has no order.
inline __m256 largest(const float* x, int32_t cols) {
  __m256 chain[kBlock];
  for (__m256& one : chain) one = _mm256_setzero_ps();
  for (int32_t k = 0; k < cols; k += kBlock)
    for (int32_t i = 0; i < kBlock; ++i)
      chain[i] = _mm256_max_ps(absolute(_mm256_load_ps(x + (k + i) * kTile)), chain[i]);
  return _mm256_max_ps(_mm256_max_ps(chain[0], chain[1]), _mm256_max_ps(chain[2], chain[3]));
}

// Four columns of eight tokens: two packssdw and a packsswb leave [4 columns][4 tokens] in each half of a register, and
// one shuffle in the halves gives [8 tokens][4 columns]; nothing crosses the halves.
inline __m256i to_words(const __m256i (&q)[kBlock]) {
  const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                         0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m256i low = _mm256_packs_epi32(q[0], q[1]), high = _mm256_packs_epi32(q[2], q[3]);
  const __m256i bytes = _mm256_max_epi8(_mm256_packs_epi16(low, high), _mm256_set1_epi8(-127));
  // To add 128 is to turn the highest bit over.
  return _mm256_shuffle_epi8(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)), order);
}

template <bool kOrdered>
inline void quantize(const QuantizeRowsArgs& args, int32_t t, __m256 inverse) {
  for (int32_t k = 0; k < args.cols; k += kBlock) {
    __m256i q[kBlock];
    for (int32_t i = 0; i < kBlock; ++i) {
      const int32_t col = kOrdered ? args.order[k + i] : k + i;
      q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(args.x + col * kTile + t), inverse));
    }
    _mm256_store_si256(reinterpret_cast<__m256i*>(args.out + (k / kBlock * kTile + t) * kBlock), to_words(q));
  }
}

}  // namespace

void quantize_rows_avx2(const QuantizeRowsArgs& given) {
  const QuantizeRowsArgs args = given;  // a copy: no store can alias it
  for (int32_t t = 0; t < args.tokens; t += kLanes) {
    const __m256 one = _mm256_set1_ps(1.0f);
    __m256 scale = _mm256_div_ps(largest(args.x + t, args.cols), _mm256_set1_ps(127.0f));
    scale = _mm256_blendv_ps(scale, one, _mm256_cmp_ps(scale, _mm256_set1_ps(kSmallestScale), _CMP_LT_OQ));
    _mm256_store_ps(args.scale + t, scale);
    const __m256 inverse = _mm256_div_ps(one, scale);
    if (args.order != nullptr)
      quantize<true>(args, t, inverse);
    else
      quantize<false>(args, t, inverse);
  }
}

}  // namespace secateur
