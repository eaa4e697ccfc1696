// What the AVX2 kernels of gemm_f32 and gemm_bf16 share: a group of rows, its weights float32.
//
// Six rows by 16 tokens in registers: twelve chains, a load of activations feeds six multiplications and a broadcast
// of a weight two, so that 8 loads go with 12 of them and the two multipliers limit the loop (96 % of them on Zen 3).
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "kernels/gemm_f32/packed.h"

namespace secateur {
namespace {

using namespace gemm_f32;

constexpr int32_t kLanes = 8;

// kRows rows x kLanes * kVectors tokens over `cols` columns; `add`: a later chunk adds to what is there. Of the last
// group only `live` rows are there.
template <int kRows, int kVectors>
void multiply_group(const float* w, const float* x, int32_t cols, int32_t live, bool add, float* acc) {
  __m256 sums[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      sums[r][v] = add && r < live ? _mm256_load_ps(acc + r * kTile + kLanes * v) : _mm256_setzero_ps();
  for (const float* const end = w + static_cast<int64_t>(cols) * kRows; w != end; w += kRows, x += kTile) {
    __m256 tokens[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) tokens[v] = _mm256_load_ps(x + kLanes * v);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const __m256 weight = _mm256_broadcast_ss(w + r);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm256_fmadd_ps(tokens[v], weight, sums[r][v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      if (r < live) _mm256_store_ps(acc + r * kTile + kLanes * v, sums[r][v]);
}

// All tokens of one group: its weights come from the first cache after the first 16 tokens.
template <int kRows>
void multiply_tokens(const float* w, const float* x, int32_t cols, int32_t live, int32_t tokens, bool add, float* acc) {
  for (int32_t t = 0; t < tokens; t += 2 * kLanes) {
    if (tokens - t > kLanes)
      multiply_group<kRows, 2>(w, x + t, cols, live, add, acc + t);
    else
      multiply_group<kRows, 1>(w, x + t, cols, live, add, acc + t);
  }
}

}  // namespace
}  // namespace secateur
