// spmm_u8s8: y[n][t] = sum_k w[n][k] * x[t][k], w int8 with most 1x4 blocks zero, x uint8, y exact int32.
//
// Only blocks that are stored are touched; empty rows give 0. Exact at the extremes of both types (255 and
// +-127): a kernel built on saturating instructions has to pack around them. See kernels/product.h for duties.
#pragma once
#include "kernels/product.h"

namespace secateur {

#define KERNEL(isa, name, pack, row, weight) \
  void name(const ProductArgs& args);        \
  PackedWeights pack(const BlockMatrix& matrix);
#include "kernels/spmm_u8s8/kernels.inc"
#undef KERNEL

// The best kernel that `isa` can run.
const ProductKernel& select_spmm_u8s8(Isa isa);

}  // namespace secateur
