#include <cstdint>

#include "base/avx512.h"
#include "kernels/spmm_bf16/packed.h"
#include "kernels/spmm_bf16/spmm_bf16.h"
#include "kernels/spmm_f32/sections_avx512.h"

namespace secateur {
namespace {

struct FormPairs {
  using Step = spmm_f32::StepAvx512;
  __attribute__((always_inline)) static __m128i load_weights(const uint8_t* w) {
    return _mm_load_si128(reinterpret_cast<const __m128i*>(w));
  }
  __attribute__((always_inline)) static __m512 multiply_add(__m512 x, __m512 weight, __m512 sum) {
    return dpbf16(sum, x, weight);
  }
};

}  // namespace

void spmm_bf16_4x32_pairs_avx512bf16(const ProductF32Args& args) { multiply<FormPairs>(args); }

}  // namespace secateur
