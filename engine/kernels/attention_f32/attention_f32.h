// attention_f32: one head of one sequence in float32, for a range of its queries.
//
//   s[j]  = chain over d of fma(q[d], k[j][d], .), from 0            j over the sequence's own keys
//   m     = max_j s[j]                                               from -infinity, s[j] > m ? s[j] : m
//   y     = (s[j] - m) * exponent_scale                              exponent_scale = score_scale * log2(e)
//   y     = y > kExpFloorF32 ? y : kExpFloorF32,  n = rint(y),  f = y - n
//   p[j]  = poly(f) * 2^n                                            attention's poly(f) = 255 * 2^f, Horner, fma
//   o[c]  = chain over j of fma(v[j][c], p[j], .), from 0
//   y     = o[c] * (1 / sum_j p[j])                                  the sum from 0, j ascending
//   f32     y itself                                                 -> out_f32
//   u8      clamp(rint(y * inv_scale) + zero_point, 0, 255)          -> out
//
// All chains run in ascending order in one lane, so nothing depends on batch, place or ISA. Queries of other
// sequences that share a vector with these must not be written. Keys and values are read only from tokens
// key_begin .. key_end - 1.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/isa.h"
#include "kernels/attention/attention.h"  // the polynomial of the exponential
#include "kernels/layout.h"

namespace secateur {

// 2^-64 beside the largest probability's 1 is nothing in float32, even 512 times.
inline constexpr float kExpFloorF32 = -64.0f;

struct AttentionF32Args {
  // Bases point at the head's first channel; token 0 is the first token of the whole batch. All in the layout of the
  // residual, [tile][channels][32].
  const float* query;  // tiles query_stride floats apart
  const float* key;    // tiles key_stride floats apart
  const float* value;  // tiles key_stride floats apart
  uint8_t* out;        // activation layout, tiles out_stride bytes apart; nullptr: out_f32 is written
  float* out_f32;      // tiles out_stride floats apart
  int64_t query_stride, key_stride, out_stride;
  int32_t head_dim;                // a multiple of 4, at most 256
  int32_t key_begin, key_end;      // the sequence's tokens
  int32_t query_begin, query_end;  // the rows of query and out to compute; any rows, not only the key rows
  float exponent_scale;
  float inv_scale;     // of out
  int32_t zero_point;  // of out
  uint8_t* scratch;    // attention_f32_scratch_bytes(keys), 64-byte aligned
};
using AttentionF32Fn = void (*)(const AttentionF32Args& args);

// Scratch that suffices for every kernel: the scores of a tile of queries, then their probabilities.
constexpr size_t attention_f32_scratch_bytes(int32_t keys) { return sizeof(float) * kTile * static_cast<size_t>(keys); }

struct AttentionF32Kernel {
  const char* name;
  Isa isa;
  AttentionF32Fn run;
};

#define KERNEL(isa, name) void name(const AttentionF32Args& args);
#include "kernels/attention_f32/kernels.inc"
#undef KERNEL

const AttentionF32Kernel& select_attention_f32(Isa isa);

}  // namespace secateur
