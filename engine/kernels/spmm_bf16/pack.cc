#include <bit>

#include "kernels/bf16.h"
#include "kernels/spmm_bf16/packed.h"
#include "kernels/spmm_bf16/spmm_bf16.h"
#include "kernels/spmm_f32/pack_sections.h"
#include "kernels/spmm_f32/spmm_f32.h"

namespace secateur {
namespace {

using spmm_f32::offset;
using spmm_f32::Run;

struct WriteAvx2 : spmm_bf16::StepAvx2 {
  static constexpr size_t kAlignment = alignof(spmm_bf16::StepAvx2);
  static void write(const Run* runs, int32_t steps, int32_t first_col, ByteWriter& out) {
    for (int32_t i = 0; i < steps; ++i) {
      spmm_bf16::StepAvx2 step{};
      uint32_t columns = 0;
      for (int32_t r = 0; r < kRows; ++r) {
        step.weights[r] = narrow_bf16(runs[r].values[i]);
        columns |= std::rotl(static_cast<uint32_t>(offset(runs[r], i, first_col)), 10 * r);
      }
      std::memcpy(step.columns, &columns, sizeof(columns));
      out.put(step);
    }
  }
};

struct WriteAvx512 : spmm_bf16::StepAvx512 {
  static constexpr size_t kAlignment = 16;
  static void write(const Run* runs, int32_t steps, int32_t first_col, ByteWriter& out) {
    for (int32_t i = 0; i < steps; ++i)
      for (int32_t r = 0; r < kRows; ++r) out.put(narrow_bf16(runs[r].values[i]));
    for (int32_t i = 0; i < steps; ++i)
      for (int32_t r = 0; r < kRows; ++r) out.put(offset(runs[r], i, first_col));
  }
};

}  // namespace

PackedWeights pack_spmm_bf16_avx2(const FloatMatrix& matrix) { return spmm_f32::pack_sections<WriteAvx2>(matrix); }
PackedWeights pack_spmm_bf16_avx512(const FloatMatrix& matrix) { return spmm_f32::pack_sections<WriteAvx512>(matrix); }
PackedWeights pack_spmm_bf16_pairs_avx512bf16(const FloatMatrix& matrix) {
  return pack_spmm_f32_avx512(PairMatrix(matrix).view());
}

}  // namespace secateur
