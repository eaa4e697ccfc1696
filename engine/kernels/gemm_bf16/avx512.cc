// gemm_f32's kernel on weights that are widened on the way, a group of rows at a time: they come from memory as half
// the bytes, and from the first cache after that.
#include <cstdint>

#include "base/avx512.h"
#include "kernels/gemm_bf16/gemm_bf16.h"
#include "kernels/gemm_f32/group_avx512.h"

namespace secateur {
namespace {

struct FormBf16 {
  using Weight = uint16_t;
  static constexpr bool kWidens = true;
  // Reads and writes whole vectors.
  __attribute__((always_inline)) static const float* words(const uint16_t* w, int32_t count, float* wide) {
    for (int32_t i = 0; i < count; i += kLanes) {
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + i)));
      _mm512_store_si512(reinterpret_cast<__m512i*>(wide + i), _mm512_slli_epi32(low, 16));
    }
    return wide;
  }

  __attribute__((always_inline)) static __m512 multiply_add(__m512 x, __m512 weight, __m512 sum) {
    return _mm512_fmadd_ps(x, weight, sum);
  }
};

}  // namespace

void gemm_bf16_8x32_avx512(const ProductF32Args& args) { multiply<FormBf16>(args); }

}  // namespace secateur
