// gemm_f32: y[n][t] = sum_k w[n][k] * x[t][k], all float32, w dense.
//
// The matrix comes as a FloatMatrix that stores every entry, zeros too: all of them take part in the sum (the law
// of kernels/product_f32.h), so an infinite activation meets a zero weight as NaN here.
#pragma once
#include "kernels/product_f32.h"

namespace secateur {

#define KERNEL(isa, name, pack, row, weight) \
  void name(const ProductF32Args& args);     \
  PackedWeights pack(const FloatMatrix& matrix);
#include "kernels/gemm_f32/kernels.inc"
#undef KERNEL

// The best kernel that `isa` can run.
const ProductF32Kernel& select_gemm_f32(Isa isa);

}  // namespace secateur
