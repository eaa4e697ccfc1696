// The float32 product of what has been rounded: that is the law.
#include "kernels/spmm_bf16/spmm_bf16.h"
#include "kernels/spmm_f32/spmm_f32.h"

namespace secateur {

PackedWeights pack_spmm_bf16_reference(const FloatMatrix& matrix) { return pack_spmm_f32_reference(matrix); }

void spmm_bf16_reference(const ProductF32Args& args) { spmm_f32_reference(args); }

}  // namespace secateur
