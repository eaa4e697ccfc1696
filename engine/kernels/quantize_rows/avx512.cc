// As avx2.cc, 16 tokens at a time.
#include <cstdint>

#include "base/avx512.h"
#include "kernels/quantize_rows/quantize_rows.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 16;
constexpr float kSmallestScale = 0x1p-126f;

// The second operand of max is what a NaN in the first leaves. Four chains: max has no order.
__attribute__((always_inline)) inline __m512 largest(const float* x, int32_t cols) {
  __m512 chain[kBlock];
#pragma GCC unroll 4
  for (int32_t i = 0; i < kBlock; ++i) chain[i] = _mm512_setzero_ps();
  for (int32_t k = 0; k < cols; k += kBlock)
#pragma GCC unroll 4
    for (int32_t i = 0; i < kBlock; ++i)
      chain[i] = _mm512_max_ps(_mm512_abs_ps(_mm512_load_ps(x + (k + i) * kTile)), chain[i]);
  return _mm512_max_ps(_mm512_max_ps(chain[0], chain[1]), _mm512_max_ps(chain[2], chain[3]));
}

__attribute__((always_inline)) inline __m512i to_words(const __m512i (&q)[kBlock]) {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i low = _mm512_packs_epi32(q[0], q[1]), high = _mm512_packs_epi32(q[2], q[3]);
  const __m512i bytes = _mm512_max_epi8(_mm512_packs_epi16(low, high), _mm512_set1_epi8(-127));
  // To add 128 is to turn the highest bit over.
  return _mm512_shuffle_epi8(_mm512_xor_si512(bytes, _mm512_set1_epi8(-128)), _mm512_broadcast_i32x4(order));
}

template <bool kOrdered>
__attribute__((always_inline)) inline void quantize(const QuantizeRowsArgs& args, int32_t t, __m512 inverse) {
  for (int32_t k = 0; k < args.cols; k += kBlock) {
    __m512i q[kBlock];
#pragma GCC unroll 4
    for (int32_t i = 0; i < kBlock; ++i) {
      const int32_t col = kOrdered ? args.order[k + i] : k + i;
      q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(args.x + col * kTile + t), inverse));
    }
    _mm512_store_si512(args.out + (k / kBlock * kTile + t) * kBlock, to_words(q));
  }
}

}  // namespace

void quantize_rows_avx512(const QuantizeRowsArgs& given) {
  const QuantizeRowsArgs args = given;  // a copy: no store can alias it
  for (int32_t t = 0; t < args.tokens; t += kLanes) {
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 scale = _mm512_div_ps(largest(args.x + t, args.cols), _mm512_set1_ps(127.0f));
    const __mmask16 empty = _mm512_cmp_ps_mask(scale, _mm512_set1_ps(kSmallestScale), _CMP_LT_OQ);
    scale = _mm512_mask_mov_ps(scale, empty, one);
    _mm512_store_ps(args.scale + t, scale);
    const __m512 inverse = _mm512_div_ps(one, scale);
    if (args.order != nullptr)
      quantize<true>(args, t, inverse);
    else
      quantize<false>(args, t, inverse);
  }
}

}  // namespace secateur
