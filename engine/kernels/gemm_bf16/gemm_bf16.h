// gemm_bf16: y[n][t] = sum_k w[n][k] * r(x[k][t]), weights bfloat16, w dense.
//
// The matrix comes as a FloatMatrix that stores every entry, zeros too: all of them take part in the sum (the law of
// kernels/product_bf16.h), so an infinite activation meets a zero weight as NaN here.
#pragma once
#include "kernels/product_bf16.h"

namespace secateur {

#define KERNEL(isa, name, form, pack, row, weight) \
  void name(const ProductF32Args& args);           \
  PackedWeights pack(const FloatMatrix& matrix);
#include "kernels/gemm_bf16/kernels.inc"
#undef KERNEL

// The best kernel that `isa` can run and that reads `form`.
const ProductBf16Kernel& select_gemm_bf16(Isa isa, Bf16Form form);

}  // namespace secateur
