// round_bf16: float32 activations as the bfloat16 products read them.
//
//   r(x) = 0 where |x| < 2^-60, NaN where x is NaN, else x rounded to bfloat16, half to even
//
// written in one of the forms of kernels/product_bf16.h, which also says why. Equal, bit by bit, on every instruction
// set but for the bits of a NaN.
#pragma once
#include "kernels/product_bf16.h"

namespace secateur {

// Columns of one tile. They begin at an even one of the tile, so that pairs stay together.
struct RoundBf16Args {
  const float* x;  // [cols][32], 64-byte aligned
  int32_t cols;    // any positive number; odd only at the end of a tile
  int32_t tokens;  // live tokens of the tile, 1 .. kTile; a kernel may round up to its lane count
  void* out;       // f32 [cols][32], or bfloat16 [ceil(cols / 2)][32][2]; 64-byte aligned, not x
};
using RoundBf16Fn = void (*)(const RoundBf16Args& args);

struct RoundBf16Kernel {
  const char* name;
  Isa isa;
  Bf16Form form;
  RoundBf16Fn run;
};

#define KERNEL(isa, name, form) void name(const RoundBf16Args& args);
#include "kernels/round_bf16/kernels.inc"
#undef KERNEL

// The best kernel that `isa` can run and that writes `form`.
const RoundBf16Kernel& select_round_bf16(Isa isa, Bf16Form form);

}  // namespace secateur
