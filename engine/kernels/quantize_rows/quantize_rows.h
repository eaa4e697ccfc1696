// quantize_rows: float32 activations to what an int8 product reads, each token by its own scale.
//
//   largest[t] = max over k of |x[k][t]|
//   scale[t]   = largest[t] / 127, or 1 where that is below the smallest normal float32
//   q[k][t]    = clamp(rint(x[order[k]][t] * (1 / scale[t])), -127, 127) + 128
//
// rint rounds half to even; a product outside int32 or a NaN converts to INT32_MIN, as cvtps2dq does, and a NaN does
// not count for the largest value. A largest value has no order, and every other operation is one IEEE float32
// operation on every ISA, so results are equal bit for bit and depend on nothing but the token's own row.
#pragma once
#include <cstdint>

#include "base/isa.h"
#include "kernels/layout.h"

namespace secateur {

// What a product of such rows has to take off its sums: of each row of the weight this often the sum.
inline constexpr int32_t kRowsZeroPoint = 128;

// Tokens of one tile; they may begin at any multiple of 16 in it.
struct QuantizeRowsArgs {
  const float* x;         // the tile [cols][32], at its first token; 64-byte aligned
  int32_t cols;           // a multiple of 4
  const uint16_t* order;  // [cols] which column each place holds; nullptr: its own
  int32_t tokens;         // live tokens, 1 .. 32; a kernel may go on to the next multiple of its lanes
  uint8_t* out;           // the tile [cols/4][32][4], at its first token; 64-byte aligned
  float* scale;           // [tokens] of the tile; 64-byte aligned
};
using QuantizeRowsFn = void (*)(const QuantizeRowsArgs& args);

struct QuantizeRowsKernel {
  const char* name;
  Isa isa;
  QuantizeRowsFn run;
};

#define KERNEL(isa, name) void name(const QuantizeRowsArgs& args);
#include "kernels/quantize_rows/kernels.inc"
#undef KERNEL

const QuantizeRowsKernel& select_quantize_rows(Isa isa);

}  // namespace secateur
