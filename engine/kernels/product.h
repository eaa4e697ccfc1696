// What the two int8 products (spmm_u8s8, gemm_u8s8) have in common: the signature by which the plan calls them.
#pragma once
#include <cstdint>

#include "base/aligned_buffer.h"
#include "base/isa.h"
#include "kernels/layout.h"

namespace secateur {

// A canonical int8 weight matrix, not owned: 1x4 blocks in compressed rows. A dense matrix has all of them.
struct BlockMatrix {
  int32_t rows = 0;                     // N, a multiple of 4
  int32_t cols = 0;                     // K, a multiple of 4, at most 16384
  const int32_t* row_start = nullptr;   // [N + 1] index of the first block of each row
  const uint16_t* block_col = nullptr;  // [B] block index in its row, 0 .. K/4 - 1, ascending within a row
  const int8_t* values = nullptr;       // [B][4] in -127 .. 127
};

// Weights in a kernel's own layout. `data` begins with whatever header the kernel's pack function writes.
struct PackedWeights {
  AlignedBuffer<uint8_t> data;
  int32_t num_chunks = 1;  // pieces of K that are summed one after another (L1 holds a tile of one piece)
};

// Arguments of one call: one chunk of K, one block of rows, one tile of tokens.
struct ProductArgs {
  const uint8_t* packed;  // PackedWeights::data
  int32_t chunk;          // 0 .. num_chunks - 1
  int32_t row_block;      // rows kRowBlock * row_block .. of the matrix
  int32_t tokens;         // live tokens of the tile, 1 .. kTile; a kernel may round up to its lane count
  const uint8_t* x;       // the whole activation tile [K/4][32][4], 64-byte aligned
  int32_t* acc;           // [rows of the block][32], 64-byte aligned
  bool prefetch = false;  // the weights are probably not in the second-level cache: a kernel may fetch ahead
};

// acc[r][t] (+)= sum over k in chunk of x[t][k] * w[kRowBlock * row_block + r][k], exact in int32.
// Chunk 0 overwrites acc, later chunks add to it; the caller runs chunks in ascending order.
using ProductFn = void (*)(const ProductArgs& args);
using PackFn = PackedWeights (*)(const BlockMatrix& matrix);

// What a tile of 32 tokens costs, in nanoseconds where it was fitted: only kernels of one instruction set are compared.
// `secateur_kernel_bench` fits it again.
struct ProductCost {
  double row, weight;  // of a row of the matrix, of a stored weight
  double of(int64_t rows, int64_t weights) const {
    return row * static_cast<double>(rows) + weight * static_cast<double>(weights);
  }
};

struct ProductKernel {
  const char* name;
  Isa isa;
  PackFn pack;  // runs once, while the plan is built; may throw
  ProductFn run;
  ProductCost cost;
};

}  // namespace secateur
