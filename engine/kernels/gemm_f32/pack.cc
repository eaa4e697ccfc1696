#include "kernels/gemm_f32/gemm_f32.h"
#include "kernels/gemm_f32/pack_rows.h"

namespace secateur {
namespace {

PackedWeights pack(const FloatMatrix& matrix, int32_t group_rows) {
  return gemm_f32::pack_rows<float>(matrix, group_rows, [](float weight) { return weight; });
}

}  // namespace

PackedWeights pack_gemm_f32_avx2(const FloatMatrix& matrix) { return pack(matrix, gemm_f32::kGroupRowsAvx2); }
PackedWeights pack_gemm_f32_avx512(const FloatMatrix& matrix) { return pack(matrix, gemm_f32::kGroupRowsAvx512); }

}  // namespace secateur
