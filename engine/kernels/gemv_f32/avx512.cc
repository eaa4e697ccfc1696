#include <cstdint>

#include "base/avx512.h"
#include "kernels/gemv_f32/gemv_f32.h"

namespace secateur {
namespace {

// 16 * kVectors outputs; each is one chain in the formula's order, so eight of them hide the latency.
template <int kVectors>
void multiply_columns(const GemvArgs& args, int32_t n) {
  __m512 sums[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sums[v] = _mm512_loadu_ps(args.bias + n + 16 * v);
  const float* w = args.w + n;
  for (int32_t k = 0; k < args.k; ++k, w += args.n_padded) {
    const __m512 x = _mm512_set1_ps(args.x[k]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[v] = _mm512_fmadd_ps(x, _mm512_load_ps(w + 16 * v), sums[v]);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(args.y + n + 16 * v, sums[v]);
}

}  // namespace

void gemv_f32_avx512(const GemvArgs& args) {
  int32_t n = 0;
  for (; n + 128 <= args.n_padded; n += 128) multiply_columns<8>(args, n);
  if (n + 64 <= args.n_padded) multiply_columns<4>(args, n), n += 64;
  if (n + 32 <= args.n_padded) multiply_columns<2>(args, n), n += 32;
  if (n < args.n_padded) multiply_columns<1>(args, n);
}

}  // namespace secateur
