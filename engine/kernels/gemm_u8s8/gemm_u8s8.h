// gemm_u8s8: y[n][t] = sum_k w[n][k] * x[t][k], w int8 dense, x uint8, y exact int32.
//
// The matrix comes as a BlockMatrix that stores every block. See kernels/product.h for the caller's duties.
#pragma once
#include "kernels/product.h"

namespace secateur {

#define KERNEL(isa, name, pack, row, weight) \
  void name(const ProductArgs& args);        \
  PackedWeights pack(const BlockMatrix& matrix);
#include "kernels/gemm_u8s8/kernels.inc"
#undef KERNEL

// The best kernel that `isa` can run.
const ProductKernel& select_gemm_u8s8(Isa isa);

}  // namespace secateur
