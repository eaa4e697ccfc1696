// dot: y[t][n] = sum over k of x[t][k] * w[n][k], w float32 or int8, read where it lies. Dense layers of the head.
//
//   s[i]  = fma-chain over k = i, i + 16, i + 32, ... ascending of x[t][k] * float(w[n][k]), from +0;  i = 0 .. 15
//   s[i] += s[i + 8] for i < 8, then s[i] += s[i + 4] for i < 4, then s[i] += s[i + 2] for i < 2;  y = s[0] + s[1]
//
// K is taken up to the next multiple of 16 with zeros on both sides. An int8 matrix has a scale a row, which the
// caller multiplies the sum with. Rows are long and in order, so nothing is packed: a vocabulary of weights that the
// embedding holds already takes no memory again, and is read once for every 32 tokens.
#pragma once
#include <cstdint>

#include "base/isa.h"

namespace secateur {

inline constexpr int32_t kDotLanes = 16;

struct DotArgs {
  const float* x;        // [tokens][K], aligned to 4 bytes
  const float* w_f32;    // [rows][K], aligned to 4 bytes, or nullptr where w_s8 is there
  const int8_t* w_s8;    // [rows][K]; nothing past the last value is read
  int32_t k;             // any positive number
  int32_t rows;          // any number; as many as stay in a near cache while the tokens pass
  int32_t tokens;        // any number
  float* y;              // of token t and row n at t * token_stride + n * row_stride
  int64_t token_stride;  // in floats
  int64_t row_stride;
};
using DotFn = void (*)(const DotArgs& args);

struct DotKernel {
  const char* name;
  Isa isa;
  DotFn run;
};

#define KERNEL(isa, name) void name(const DotArgs& args);
#include "kernels/dot/kernels.inc"
#undef KERNEL

const DotKernel& select_dot(Isa isa);

}  // namespace secateur
