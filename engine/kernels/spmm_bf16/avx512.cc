#include <cstdint>

#include "base/avx512.h"
#include "kernels/spmm_bf16/packed.h"
#include "kernels/spmm_bf16/spmm_bf16.h"
#include "kernels/spmm_f32/sections_avx512.h"

namespace secateur {
namespace {

struct FormBf16 {
  using Step = spmm_bf16::StepAvx512;
  __attribute__((always_inline)) static __m128i load_weights(const uint8_t* w) {
    return _mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(w))), 16);
  }
  __attribute__((always_inline)) static __m512 multiply_add(__m512 x, __m512 weight, __m512 sum) {
    return _mm512_fmadd_ps(x, weight, sum);
  }
};

}  // namespace

void spmm_bf16_4x32_avx512(const ProductF32Args& args) { multiply<FormBf16>(args); }

}  // namespace secateur
