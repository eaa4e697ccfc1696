// embedding: h[n][t] = word[id][n] * word_scale[id] + type[ty][n] * type_scale[ty] + position[p][n] * position_scale[p]
//
// Each product is one float32 multiplication of a converted int8; the sum is (word + type) + position, no fma.
#pragma once
#include <cstdint>

#include "base/isa.h"
#include "kernels/layout.h"

namespace secateur {

struct EmbeddingTable {
  const int8_t* rows;  // [V][N]
  const float* scale;  // [V]
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
