// spmm_f32's loop with weights of half the size: two shuffles and three operations more to spread three of them.
#include <immintrin.h>

#include <cstdint>

#include "kernels/spmm_bf16/packed.h"
#include "kernels/spmm_bf16/spmm_bf16.h"
#include "kernels/spmm_f32/sections_avx2.h"

namespace secateur {
namespace {

struct FormBf16 {
  using Step = spmm_bf16::StepAvx2;

  template <int kVectors>
  __attribute__((always_inline)) static void add(const float* x, const Step* step, Sums<kVectors>& sums) {
    long long bits;
    __builtin_memcpy(&bits, step->weights, sizeof(bits));
    uint32_t columns;
    __builtin_memcpy(&columns, step->columns, sizeof(columns));
    const __m256i all = _mm256_set1_epi64x(bits), two = _mm256_shuffle_epi32(all, 0x00),
                  third = _mm256_shuffle_epi32(all, 0x55), high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    const __m256 weights[Step::kRows] = {_mm256_castsi256_ps(_mm256_slli_epi32(two, 16)),
                                         _mm256_castsi256_ps(_mm256_and_si256(two, high)),
                                         _mm256_castsi256_ps(_mm256_slli_epi32(third, 16))};
    add_entry<kVectors>(activations(x, columns & kColumnMask), weights[0], sums.row[0]);
    add_entry<kVectors>(activations(x, columns >> 10 & kColumnMask), weights[1], sums.row[1]);
    add_entry<kVectors>(activations(x, (columns >> 20 | columns << 12) & kColumnMask), weights[2], sums.row[2]);
  }
};

}  // namespace

void spmm_bf16_3x32_avx2(const ProductF32Args& args) { multiply<FormBf16>(args); }

}  // namespace secateur
