#include <immintrin.h>

#include <cstdint>

#include "kernels/gemv_f32/gemv_f32.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 8;

// Rows n .. n + 8 * kVectors - 1, a sum a lane.
template <int32_t kVectors>
inline void rows(const GemvArgs& args, int32_t n) {
  __m256 y[kVectors];
  for (int32_t v = 0; v < kVectors; ++v) y[v] = _mm256_loadu_ps(args.bias + n + v * kLanes);
  const float* w = args.w + n;
  for (int32_t k = 0; k < args.k; ++k, w += args.n_padded) {
    const __m256 x = _mm256_broadcast_ss(args.x + k);
    for (int32_t v = 0; v < kVectors; ++v) y[v] = _mm256_fmadd_ps(x, _mm256_load_ps(w + v * kLanes), y[v]);
  }
  for (int32_t v = 0; v < kVectors; ++v) _mm256_storeu_ps(args.y + n + v * kLanes, y[v]);
}

}  // namespace

void gemv_f32_avx2(const GemvArgs& args) {
  int32_t n = 0;
  for (; n + 8 * kLanes <= args.n_padded; n += 8 * kLanes) rows<8>(args, n);
  for (; n < args.n_padded; n += 2 * kLanes) rows<2>(args, n);
}

}  // namespace secateur
