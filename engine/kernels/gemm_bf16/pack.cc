#include "kernels/bf16.h"
#include "kernels/gemm_bf16/gemm_bf16.h"
#include "kernels/gemm_f32/gemm_f32.h"
#include "kernels/gemm_f32/pack_rows.h"

namespace secateur {

PackedWeights pack_gemm_bf16_avx2(const FloatMatrix& matrix) {
  return gemm_f32::pack_rows<uint16_t>(matrix, gemm_f32::kGroupRowsAvx2, narrow_bf16);
}

PackedWeights pack_gemm_bf16_avx512(const FloatMatrix& matrix) {
  return gemm_f32::pack_rows<uint16_t>(matrix, gemm_f32::kGroupRowsAvx512, narrow_bf16);
}

PackedWeights pack_gemm_bf16_pairs_avx512bf16(const FloatMatrix& matrix) {
  return pack_gemm_f32_avx512(PairMatrix(matrix).view());
}

}  // namespace secateur
