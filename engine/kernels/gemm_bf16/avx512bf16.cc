#include <cstdint>

#include "base/avx512.h"
#include "kernels/gemm_bf16/gemm_bf16.h"
#include "kernels/gemm_f32/group_avx512.h"

namespace secateur {
namespace {

struct FormPairs {
  using Weight = float;
  static constexpr bool kWidens = false;
  __attribute__((always_inline)) static const float* words(const float* w, int32_t, float*) { return w; }
  __attribute__((always_inline)) static __m512 multiply_add(__m512 x, __m512 weight, __m512 sum) {
    return dpbf16(sum, x, weight);
  }
};

}  // namespace

void gemm_bf16_8x32_pairs_avx512bf16(const ProductF32Args& args) { multiply<FormPairs>(args); }

}  // namespace secateur
