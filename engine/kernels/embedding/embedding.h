// embedding: h[n][t] = (word(id, n) + type(ty, n)) + position(p, n)
//
//   int8 table      value(row, n) = float(rows[row][n]) * scale[row]      no fma
//   float32 table   value(row, n) = rows_f32[row][n]
//
// Tables may differ in type.
#pragma once
#include <cstdint>

#include "base/isa.h"
#include "kernels/layout.h"

namespace secateur {

struct EmbeddingTable {
  const int8_t* rows;               // [V][N], or nullptr where rows_f32 is there
  const float* scale;               // [V]
  const float* rows_f32 = nullptr;  // [V][N], aligned to 4 bytes
};

struct EmbeddingArgs {
  EmbeddingTable word, token_type, position;
  const int32_t* word_id;  // [tokens], checked against V by the caller
  const int32_t* token_type_id;
  const int32_t* position_id;
  int32_t channels;  // N, a multiple of 4
  int32_t tokens;    // 1 .. kTile
  float* h;          // tile [N][32]; lanes past tokens must come out finite (write zeros)
};
using EmbeddingFn = void (*)(const EmbeddingArgs& args);

struct EmbeddingKernel {
  const char* name;
  Isa isa;
  EmbeddingFn run;
};

#define KERNEL(isa, name) void name(const EmbeddingArgs& args);
#include "kernels/embedding/kernels.inc"
#undef KERNEL

const EmbeddingKernel& select_embedding(Isa isa);

}  // namespace secateur
