#include <cstdint>

#include "base/avx512.h"
#include "kernels/layer_norm/layer_norm.h"

namespace secateur {
namespace {

// Four rows of 16 tokens, in int32, to 16 tokens of four channels, in u8.
__attribute__((always_inline)) inline __m512i pack_u8(const __m512i (&q)[kBlock], __m512i zero_point) {
  const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), zero_point);
  const __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), zero_point);
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_shuffle_epi8(_mm512_packus_epi16(low, high), _mm512_broadcast_i32x4(order));
}

// 16 * kVectors tokens. The sums are one chain a token, in the formula's order: their latency is the cost.
template <int kVectors>
void normalise(const LayerNormArgs args) {  // a copy: no store can alias it
  const __m512 per_channel = _mm512_set1_ps(1.0f / static_cast<float>(args.channels));
  __m512 mean[kVectors], rstd[kVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) mean[v] = _mm512_setzero_ps();
  for (int32_t n = 0; n < args.channels; ++n)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      mean[v] = _mm512_add_ps(mean[v], _mm512_load_ps(args.h + static_cast<int64_t>(n) * kTile + 16 * v));
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    mean[v] = _mm512_mul_ps(mean[v], per_channel);
    rstd[v] = _mm512_setzero_ps();
  }
  for (int32_t n = 0; n < args.channels; ++n)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const __m512 d = _mm512_sub_ps(_mm512_load_ps(args.h + static_cast<int64_t>(n) * kTile + 16 * v), mean[v]);
      rstd[v] = _mm512_fmadd_ps(d, d, rstd[v]);
    }
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    const __m512 var = _mm512_add_ps(_mm512_mul_ps(rstd[v], per_channel), _mm512_set1_ps(args.eps));
    rstd[v] = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(var));
  }
  const __m512 inv_scale = _mm512_set1_ps(args.inv_scale);
  const __m512i zero_point = _mm512_set1_epi16(static_cast<int16_t>(args.zero_point));
  for (int32_t n = 0; n < args.channels; n += kBlock)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      __m512i q[kBlock];
#pragma GCC unroll 4
      for (int i = 0; i < kBlock; ++i) {
        const int32_t c = args.order == nullptr ? n + i : args.order[n + i];
        float* h = args.h + static_cast<int64_t>(c) * kTile + 16 * v;
        const __m512 x = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(h), mean[v]), rstd[v]);
        const __m512 y = _mm512_fmadd_ps(x, _mm512_set1_ps(args.gamma[c]), _mm512_set1_ps(args.beta[c]));
        _mm512_store_ps(h, y);
        q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(y, inv_scale));
      }
      if (args.out != nullptr)
        _mm512_store_si512(args.out + static_cast<int64_t>(n) * kTile + 64 * v, pack_u8(q, zero_point));
    }
}

}  // namespace

void layer_norm_avx512(const LayerNormArgs& args) {
  if (args.tokens > 16)
    normalise<2>(args);
  else
    normalise<1>(args);
}

}  // namespace secateur
