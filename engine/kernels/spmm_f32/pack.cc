#include <bit>

#include "kernels/spmm_f32/pack_sections.h"
#include "kernels/spmm_f32/spmm_f32.h"

namespace secateur {
namespace {

using namespace spmm_f32;

struct WriteAvx2 : StepAvx2 {
  static constexpr size_t kAlignment = 16;
  static void write(const Run* runs, int32_t steps, int32_t first_col, ByteWriter& out) {
    for (int32_t i = 0; i < steps; ++i) {
      StepAvx2 step{};
      for (int32_t r = 0; r < kRows; ++r) {
        step.weights[r] = runs[r].values[i];
        step.columns |= std::rotl(static_cast<uint32_t>(offset(runs[r], i, first_col)), 10 * r);
      }
      out.put(step);
    }
  }
};

struct WriteAvx512 : StepAvx512 {
  static constexpr size_t kAlignment = 16;
  static void write(const Run* runs, int32_t steps, int32_t first_col, ByteWriter& out) {
    for (int32_t i = 0; i < steps; ++i)
      for (int32_t r = 0; r < kRows; ++r) out.put(runs[r].values[i]);
    for (int32_t i = 0; i < steps; ++i)
      for (int32_t r = 0; r < kRows; ++r) out.put(offset(runs[r], i, first_col));
  }
};

}  // namespace

PackedWeights pack_spmm_f32_avx2(const FloatMatrix& matrix) { return pack_sections<WriteAvx2>(matrix); }
PackedWeights pack_spmm_f32_avx512(const FloatMatrix& matrix) { return pack_sections<WriteAvx512>(matrix); }

}  // namespace secateur
