// gemv_f32: y[n] = fma-sum over k ascending of x[k] * w[n][k], started at bias[n]. Pooler and head.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/isa.h"

namespace secateur {

inline constexpr int32_t kGemvLanes = 16;  // rows are padded to this; the padding holds zeros

struct GemvArgs {
  const float* x;     // [K]
  const float* w;     // [K][n_padded]: transposed, so that rows sit in lanes; 64-byte aligned
  const float* bias;  // [n_padded]
  float* y;           // [n_padded]
  int32_t k;
  int32_t n_padded;  // a multiple of kGemvLanes
};
using GemvFn = void (*)(const GemvArgs& args);

struct GemvKernel {
  const char* name;
  Isa isa;
  GemvFn run;
};

#define KERNEL(isa, name) void name(const GemvArgs& args);
#include "kernels/gemv_f32/kernels.inc"
#undef KERNEL

const GemvKernel& select_gemv_f32(Isa isa);

}  // namespace secateur
