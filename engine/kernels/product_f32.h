// What the two float32 products (spmm_f32, gemm_f32) have in common: the signature by which the plan calls them.
#pragma once
#include <cstdint>

#include "base/isa.h"
#include "kernels/layout.h"
#include "kernels/product.h"

namespace secateur {

// A canonical float32 weight matrix, not owned, in compressed rows. A dense matrix has all of its entries. Arrays
// need the alignment of their element type only; a stored value may be 0 (and counts as an entry).
struct FloatMatrix {
  int32_t rows = 0;                    // N, any positive number
  int32_t cols = 0;                    // K, any positive number up to 16384
  const int32_t* row_start = nullptr;  // [N + 1] index of the first entry of each row
  const uint16_t* col = nullptr;       // [B] 0 .. K - 1, ascending within a row
  const float* values = nullptr;       // [B] finite
};

// Arguments of one call: one chunk of K, one block of rows, one tile of tokens.
struct ProductF32Args {
  const uint8_t* packed;  // PackedWeights::data
  int32_t chunk;          // 0 .. num_chunks - 1
  int32_t row_block;      // rows kRowBlock * row_block .. of the matrix
  int32_t tokens;         // live tokens of the tile, 1 .. kTile; a kernel may round up to its lane count
  const float* x;         // the whole activation tile [K][32], 64-byte aligned
  float* acc;             // [rows of the block][32], 64-byte aligned
  bool prefetch = false;  // the weights are probably not in the second-level cache: a kernel may fetch ahead
};

// acc[r][t] (+)= sum over k in chunk of x[k][t] * w[kRowBlock * row_block + r][k].
// Chunk 0 overwrites acc, later chunks add to it; the caller runs chunks in ascending order.
//
// The sum of an output is one chain of fused multiply-adds in ascending k that starts from +0 in chunk 0:
//   acc = 0;  for every stored entry (r, k), ascending:  acc = fma(x[k][t], w[r][k], acc)
// So results are equal, bit by bit, on every instruction set, and do not depend on batch, place or threads. An
// entry that is not stored has no part in it: 0 * infinity makes no NaN where there is no weight.
using ProductF32Fn = void (*)(const ProductF32Args& args);
using PackF32Fn = PackedWeights (*)(const FloatMatrix& matrix);

struct ProductF32Kernel {
  const char* name;
  Isa isa;
  PackF32Fn pack;  // runs once, while the plan is built; may throw
  ProductF32Fn run;
  ProductCost cost;
};

}  // namespace secateur
