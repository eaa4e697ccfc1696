// attention: one head of one sequence, for a range of its queries.
//
//   a[j]  = sum_d (q[d] - query_zero_point) * k[j][d]                exact int32, j over the sequence's own keys
//   y     = max(float(a[j] - max_j a[j]) * exponent_scale, -24)      exponent_scale = score_scale * log2(e)
//   n     = rint(y), f = y - n
//   p[j]  = rint(poly(f) * 2^n)                                      poly(f) = 255 * 2^f on [-1/2, 1/2], Horner, fma
//   o[c]  = sum_j p[j] * v[c][j]                                     exact int32
//   y     = float(o[c]) * (value_scale / float(sum_j p[j]))
//   u8      clamp(rint(y * inv_scale) + zero_point, 0, 255)        -> out
//   f32     y itself                                               -> out_f32
//
// The maximum is taken over integers, so nothing depends on order. Queries of other sequences that share a
// vector with these must not be written. Keys are read only from tokens key_begin .. key_end - 1, except that
// values may be read up to 63 bytes past the last key (times p = 0).
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/isa.h"
#include "kernels/layout.h"

namespace secateur {

inline constexpr int32_t kExpDegree = 4;
extern const float kExp2x255[kExpDegree + 1];  // poly(f) = c[0] + f * (c[1] + ...); relative error 4e-6
inline constexpr float kExpFloor = -24.0f;

struct AttentionArgs {
  // Bases point at the head's first channel; token 0 is the first token of the whole batch.
  const uint8_t* query;  // activation layout, tiles query_stride bytes apart
  const int8_t* key;     // activation layout, tiles key_stride bytes apart
  const int8_t* value;   // [head_dim][value_stride]
  uint8_t* out;          // activation layout, tiles out_stride bytes apart; nullptr: out_f32 is written
  int64_t query_stride, key_stride, value_stride, out_stride;
  int32_t head_dim;                // a multiple of 4, at most 256
  int32_t key_begin, key_end;      // the sequence's tokens
  int32_t query_begin, query_end;  // the rows of query and out to compute; any rows, not only the key rows
  int32_t query_zero_point;
  float exponent_scale;
  float value_scale;
  float inv_scale;     // of out
  int32_t zero_point;  // of out
  uint8_t* scratch;    // attention_scratch_bytes(keys, head_dim), 64-byte aligned
  float* out_f32;      // layout of the residual, tiles out_stride floats apart
};
using AttentionFn = void (*)(const AttentionArgs& args);

// Scratch that suffices for every kernel: scores, probabilities, widened keys and values.
constexpr size_t attention_scratch_bytes(int32_t keys, int32_t head_dim) {
  const size_t padded = (static_cast<size_t>(keys) + 63) / 64 * 64 + 64;
  return padded * (kTile * 8 + static_cast<size_t>(head_dim) * 4 + 16) + static_cast<size_t>(head_dim) * kTile * 8 +
         4096;
}

struct AttentionKernel {
  const char* name;
  Isa isa;
  AttentionFn run;
};

#define KERNEL(isa, name) void name(const AttentionArgs& args);
#include "kernels/attention/kernels.inc"
#undef KERNEL

const AttentionKernel& select_attention(Isa isa);

}  // namespace secateur
