// spmm_f32: y[n][t] = sum_k w[n][k] * x[t][k], all float32, w with any weights missing (no blocks).
//
// Only entries that are stored are touched, in ascending k, by one chain of fused multiply-adds an output: the law
// of kernels/product_f32.h. Packing adds no entry, since none is neutral: 0 * x is NaN where x is infinite, and +0
// turns a sum that underflowed to -0. An empty row gives +0.
#pragma once
#include "kernels/product_f32.h"

namespace secateur {

#define KERNEL(isa, name, pack, row, weight) \
  void name(const ProductF32Args& args);     \
  PackedWeights pack(const FloatMatrix& matrix);
#include "kernels/spmm_f32/kernels.inc"
#undef KERNEL

// The best kernel that `isa` can run.
const ProductF32Kernel& select_spmm_f32(Isa isa);

}  // namespace secateur
