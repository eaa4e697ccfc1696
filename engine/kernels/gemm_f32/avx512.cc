#include <cstdint>

#include "base/avx512.h"
#include "kernels/gemm_f32/gemm_f32.h"
#include "kernels/gemm_f32/group_avx512.h"

namespace secateur {
namespace {

struct FormF32 {
  using Weight = float;
  static constexpr bool kWidens = false;
  __attribute__((always_inline)) static const float* words(const float* w, int32_t, float*) { return w; }
  __attribute__((always_inline)) static __m512 multiply_add(__m512 x, __m512 weight, __m512 sum) {
    return _mm512_fmadd_ps(x, weight, sum);
  }
};

}  // namespace

void gemm_f32_8x32_avx512(const ProductF32Args& args) { multiply<FormF32>(args); }

}  // namespace secateur
