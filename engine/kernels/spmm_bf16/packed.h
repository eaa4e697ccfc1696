// What pack_spmm_bf16_<set> writes and spmm_bf16_<set> reads: the sections of spmm_f32 (kernels/spmm_f32/packed.h)
// with steps of their own. The few entries outside of steps keep float32 weights.
//
// avx512bf16: what pack_spmm_f32_avx512 makes of the matrix of pairs: an entry is two columns, 2j and 2j + 1, of which
// one at least is stored, its weight the word that multiplies a word of activations, its column j.
#pragma once
#include "kernels/spmm_f32/packed.h"

namespace secateur::spmm_bf16 {

// avx2: three weights, and the word of columns that spmm_f32's StepAvx2 has, its low half first. Ten bytes; a load of
// eight at the weights stays inside.
struct StepAvx2 {
  static constexpr int32_t kRows = 3;
  uint16_t weights[kRows];
  uint16_t columns[2];
};
static_assert(sizeof(StepAvx2) == 10);

// avx512: weights bfloat16 [steps][4 rows], then offsets u16 [steps][4 rows].
struct StepAvx512 {
  static constexpr int32_t kRows = 4;
  static constexpr int32_t kWeightBytes = kRows * sizeof(uint16_t);
  static constexpr int32_t kOffsetBytes = kRows * sizeof(uint16_t);
};

}  // namespace secateur::spmm_bf16
