// Three rows in lock step by 32 tokens in registers: twelve chains, and 13 vector loads go with 12 multiplications.
//
// Zen 3, 32 tokens: the loads allow 6.5 cycles for three entries; 7.1 are reached where the chunk of the tile fills
// half of the first cache, 8 in the products of a model 80 % sparse.
#include <immintrin.h>

#include <cstdint>

#include "kernels/spmm_f32/packed.h"
#include "kernels/spmm_f32/sections_avx2.h"
#include "kernels/spmm_f32/spmm_f32.h"

namespace secateur {
namespace {

struct FormF32 {
  using Step = StepAvx2;

  // One load brings the weights and the columns: with the activations 13 loads of vectors for 12 multiplications.
  template <int kVectors>
  __attribute__((always_inline)) static void add(const float* x, const Step* step, Sums<kVectors>& sums) {
    const __m256 all = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(step));
    const uint32_t columns = step->columns;
    add_entry<kVectors>(activations(x, columns & kColumnMask), _mm256_permute_ps(all, 0x00), sums.row[0]);
    add_entry<kVectors>(activations(x, columns >> 10 & kColumnMask), _mm256_permute_ps(all, 0x55), sums.row[1]);
    add_entry<kVectors>(activations(x, (columns >> 20 | columns << 12) & kColumnMask), _mm256_permute_ps(all, 0xaa),
                        sums.row[2]);
  }
};

}  // namespace

void spmm_f32_3x32_avx2(const ProductF32Args& args) { multiply<FormF32>(args); }

}  // namespace secateur
