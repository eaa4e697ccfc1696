// spmm_bf16: y[n][t] = sum_k w[n][k] * r(x[k][t]), weights bfloat16, any of them missing (no blocks).
//
// The law of kernels/product_bf16.h. Only entries that are stored are touched; kernels of pairs also touch, with a
// weight of 0, the other column of a pair of which one is stored. An empty row gives +0.
#pragma once
#include "kernels/product_bf16.h"

namespace secateur {

#define KERNEL(isa, name, form, pack, row, weight) \
  void name(const ProductF32Args& args);           \
  PackedWeights pack(const FloatMatrix& matrix);
#include "kernels/spmm_bf16/kernels.inc"
#undef KERNEL

// The best kernel that `isa` can run and that reads `form`.
const ProductBf16Kernel& select_spmm_bf16(Isa isa, Bf16Form form);

}  // namespace secateur
