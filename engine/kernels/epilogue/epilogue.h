// epilogue: what happens to the sums of a product before they leave the core.
//
//   s32       y = fma(float(acc), scale[n], bias[n])                   of an int8 product
//   rows      y = fma(float(acc + start[n]), row_scale[t] * scale[n], bias[n])
//                                                                      of an int8 product of kernels/quantize_rows
//   f32       y = acc_f32 + bias[n]                                    of a float32 product
//
// and of each
//
//   u8        q = clamp(rint(y * inv_scale) + zero_point, 0, 255)      -> activation tile
//   s8        q = clamp(rint(y * inv_scale), -127, 127)                -> activation tile
//   value     the same q                                               -> [channel][token]
//   gelu      y = max(y, 0) + poly(min(|y|, 4)), then u8               (poly: see kGeluDegree)
//   relu      y = max(y, 0), then u8
//   add       residual[n][t] += y
//   f32       y itself                                                 -> float32 tile
//   gelu_f32  gelu's y                                                 -> float32 tile
//   relu_f32  relu's y                                                 -> float32 tile
//
// rint rounds half to even. A product y * inv_scale outside int32 converts to INT32_MIN, as cvtps2dq does.
// Every operation is one IEEE float32 operation in this order on every ISA, so results are equal bit for bit.
#pragma once
#include <cstdint>

#include "base/isa.h"
#include "kernels/layout.h"

namespace secateur {

// poly(a) = a * (c[0] + a * (c[1] + ... + a * c[8])), Horner with fma; fits gelu(x) - max(x, 0) on [0, 4].
inline constexpr int32_t kGeluDegree = 9;
inline constexpr float kGeluClamp = 4.0f;
// Coefficients for x * Phi(x) and for its tanh form; largest errors 1.3e-4 and 1.4e-4 (tests/engine/test_kernels).
extern const float kGeluErf[kGeluDegree];
extern const float kGeluTanh[kGeluDegree];

struct EpilogueArgs {
  const int32_t* acc;      // s32, rows: [rows][32] of the row block
  const float* scale;      // s32: [N] input_scale * weight_scale; rows: [N] weight_scale
  const float* bias;       // [N]; s32: with the zero point's share folded in
  int32_t row_begin;       // first row of the matrix, a multiple of 4
  int32_t rows;            // a multiple of 4, at most kRowBlock
  int32_t tokens;          // live tokens of the tile; a kernel may write up to the next multiple of its lanes
  float inv_scale;         // 1 / scale of what is written
  int32_t zero_point;      // of what is written, 0 .. 255
  uint8_t* out;            // u8, s8, gelu, relu: the tile [N/4][32][4] (all N rows; the kernel offsets by row_begin)
  int8_t* value;           // value: [N][value_stride], already at this tile's first token
  int64_t value_stride;    // bytes between channels, a multiple of 32
  float* residual;         // add: the tile [N][32]
  const float* gelu;       // gelu, gelu_f32: kGeluDegree coefficients
  const float* acc_f32;    // f32 sums: [rows][32] of the row block
  float* out_f32;          // f32, gelu_f32, relu_f32: the tile [N][32]
  const int32_t* start;    // rows: [N] -128 * sum of the weight's row; what a sum should have started from
  const float* row_scale;  // rows: [32] of the tile, 64-byte aligned
};
using EpilogueFn = void (*)(const EpilogueArgs& args);

struct EpilogueForms {
  EpilogueFn u8, s8, value, gelu, relu, add, f32, gelu_f32, relu_f32;
};

struct EpilogueKernels {
  const char* name;
  Isa isa;
  const EpilogueForms *s32, *rows, *f32;  // by the sums
};

#define KERNEL(isa, name) extern const EpilogueForms name##_s32, name##_rows, name##_f32;
#include "kernels/epilogue/kernels.inc"
#undef KERNEL

const EpilogueKernels& select_epilogue(Isa isa);

}  // namespace secateur
