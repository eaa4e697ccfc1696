// layer_norm: h <- (h - mean) / sqrt(var + eps) * gamma + beta for each token of a tile, and its u8 form.
//
//   mean = sum_n h[n] * (1/N)          n ascending, one float32 sum a token
//   var  = sum_n fma(d, d, .) * (1/N)  d = h[n] - mean
//   rstd = 1 / sqrt(var + eps)
//   h[n] = fma((h[n] - mean) * rstd, gamma[n], beta[n])
//   out  = clamp(rint(h[n] * inv_scale) + zero_point, 0, 255), place j for n = order[j]
//
// Sums run down a lane, so they do not depend on the batch or the ISA.
#pragma once
#include <cstdint>

#include "base/isa.h"
#include "kernels/layout.h"

namespace secateur {

struct LayerNormArgs {
  float* h;            // tile [N][32], in and out
  int32_t channels;    // N, a multiple of 4
  int32_t tokens;      // live tokens of the tile
  const float* gamma;  // [N]
  const float* beta;   // [N]
  float eps;
  float inv_scale;
  int32_t zero_point;
  uint8_t* out;                     // tile [N/4][32][4], or nullptr when nothing reads the quantized form
  const uint16_t* order = nullptr;  // [N] a permutation: which channel each place of `out` holds; nullptr: its own
};
using LayerNormFn = void (*)(const LayerNormArgs& args);

struct LayerNormKernel {
  const char* name;
  Isa isa;
  LayerNormFn run;
};

#define KERNEL(isa, name) void name(const LayerNormArgs& args);
#include "kernels/layer_norm/kernels.inc"
#undef KERNEL

const LayerNormKernel& select_layer_norm(Isa isa);

}  // namespace secateur
