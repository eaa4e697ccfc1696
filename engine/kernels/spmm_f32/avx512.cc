#include <cstdint>

#include "base/avx512.h"
#include "kernels/spmm_f32/packed.h"
#include "kernels/spmm_f32/sections_avx512.h"
#include "kernels/spmm_f32/spmm_f32.h"

namespace secateur {
namespace {

struct FormF32 {
  using Step = StepAvx512;
  __attribute__((always_inline)) static __m128i load_weights(const uint8_t* w) {
    return _mm_load_si128(reinterpret_cast<const __m128i*>(w));
  }
  __attribute__((always_inline)) static __m512 multiply_add(__m512 x, __m512 weight, __m512 sum) {
    return _mm512_fmadd_ps(x, weight, sum);
  }
};

}  // namespace

void spmm_f32_4x32_avx512(const ProductF32Args& args) { multiply<FormF32>(args); }

}  // namespace secateur
