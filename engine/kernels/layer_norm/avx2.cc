// All 32 tokens of a tile side by side: four sums run at once, which hides most of an addition's latency.
#include <immintrin.h>

#include <cstdint>

#include "kernels/layer_norm/layer_norm.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 8;

inline __m256i to_words(__m256i rows) {
  const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                         0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm256_shuffle_epi8(rows, order);
}

template <int32_t kVectors>
inline void normalise(const LayerNormArgs& args) {
  const __m256 per_channel = _mm256_set1_ps(1.0f / static_cast<float>(args.channels));
  __m256 mean[kVectors], rstd[kVectors];
  for (int32_t v = 0; v < kVectors; ++v) mean[v] = rstd[v] = _mm256_setzero_ps();
  for (int32_t n = 0; n < args.channels; ++n)
    for (int32_t v = 0; v < kVectors; ++v)
      mean[v] = _mm256_add_ps(mean[v], _mm256_load_ps(args.h + n * kTile + v * kLanes));
  for (int32_t v = 0; v < kVectors; ++v) mean[v] = _mm256_mul_ps(mean[v], per_channel);
  for (int32_t n = 0; n < args.channels; ++n)
    for (int32_t v = 0; v < kVectors; ++v) {
      const __m256 d = _mm256_sub_ps(_mm256_load_ps(args.h + n * kTile + v * kLanes), mean[v]);
      rstd[v] = _mm256_fmadd_ps(d, d, rstd[v]);
    }
  for (int32_t v = 0; v < kVectors; ++v) {
    const __m256 var = _mm256_mul_ps(rstd[v], per_channel);
    rstd[v] = _mm256_div_ps(_mm256_set1_ps(1.0f), _mm256_sqrt_ps(_mm256_add_ps(var, _mm256_set1_ps(args.eps))));
  }
  const __m256 inv_scale = _mm256_set1_ps(args.inv_scale);
  const __m256i zero_point = _mm256_set1_epi16(static_cast<int16_t>(args.zero_point));
  for (int32_t n = 0; n < args.channels; n += kBlock)
    for (int32_t v = 0; v < kVectors; ++v) {
      __m256i q[kBlock];
      for (int32_t i = 0; i < kBlock; ++i) {
        const int32_t c = args.order == nullptr ? n + i : args.order[n + i];
        float* p = args.h + c * kTile + v * kLanes;
        const __m256 h = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_sub_ps(_mm256_load_ps(p), mean[v]), rstd[v]),
                                         _mm256_broadcast_ss(args.gamma + c), _mm256_broadcast_ss(args.beta + c));
        _mm256_store_ps(p, h);
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(h, inv_scale));
      }
      if (args.out == nullptr) continue;
      const __m256i low = _mm256_adds_epi16(_mm256_packs_epi32(q[0], q[1]), zero_point);
      const __m256i high = _mm256_adds_epi16(_mm256_packs_epi32(q[2], q[3]), zero_point);
      _mm256_store_si256(reinterpret_cast<__m256i*>(args.out + n * kTile + v * kLanes * kBlock),
                         to_words(_mm256_packus_epi16(low, high)));
    }
}

}  // namespace

void layer_norm_avx2(const LayerNormArgs& args) {
  switch ((args.tokens + kLanes - 1) / kLanes) {
    case 1:
      return normalise<1>(args);
    case 2:
      return normalise<2>(args);
    case 3:
      return normalise<3>(args);
    default:
      return normalise<4>(args);
  }
}

}  // namespace secateur
