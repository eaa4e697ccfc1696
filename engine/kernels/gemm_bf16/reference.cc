// The float32 product of what has been rounded: that is the law.
#include "kernels/gemm_bf16/gemm_bf16.h"
#include "kernels/gemm_f32/gemm_f32.h"

namespace secateur {

PackedWeights pack_gemm_bf16_reference(const FloatMatrix& matrix) { return pack_gemm_f32_reference(matrix); }

void gemm_bf16_reference(const ProductF32Args& args) { gemm_f32_reference(args); }

}  // namespace secateur
