// What the AVX-512 kernels of gemm_f32 and gemm_bf16 share: a group of rows, its weights 32-bit words.
//
// Eight rows by 32 tokens in registers: sixteen chains, and 10 loads go with 16 multiplications. A Form says what the
// weights are in memory (Form::Weight), as words (Form::words, which may use `wide`), and multiplies 16 tokens with
// one.
#pragma once
#include <cstdint>

#include "base/avx512.h"
#include "kernels/gemm_f32/packed.h"
#include "kernels/product_f32.h"

namespace secateur {
namespace {

using namespace gemm_f32;

constexpr int32_t kLanes = 16;

// kRows rows x kLanes * kVectors tokens over `cols` columns; `add`: a later chunk adds to what is there. Of the last
// group only `live` rows are there.
template <class Form, int kRows, int kVectors>
void multiply_group(const float* w, const float* x, int32_t cols, int32_t live, bool add, float* acc) {
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      sums[r][v] = add && r < live ? _mm512_load_ps(acc + r * kTile + kLanes * v) : _mm512_setzero_ps();
  for (const float* const end = w + static_cast<int64_t>(cols) * kRows; w != end; w += kRows, x += kTile) {
    __m512 tokens[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) tokens[v] = _mm512_load_ps(x + kLanes * v);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512 weight = _mm512_set1_ps(w[r]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[r][v] = Form::multiply_add(tokens[v], weight, sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      if (r < live) _mm512_store_ps(acc + r * kTile + kLanes * v, sums[r][v]);
}

template <class Form, int kRows>
__attribute__((always_inline)) inline void multiply_rows(const typename Form::Weight* w, const float* x, int32_t cols,
                                                         int32_t live, int32_t tokens, bool add, float* acc) {
  alignas(64) float wide[Form::kWidens ? kRows * kChunkCols + kLanes : 1];
  const float* const words = Form::words(w, kRows * cols, wide);
  if (tokens > kLanes)
    multiply_group<Form, kRows, 2>(words, x, cols, live, add, acc);
  else
    multiply_group<Form, kRows, 1>(words, x, cols, live, add, acc);
}

template <class Form>
__attribute__((always_inline)) inline void multiply(const ProductF32Args& args) {
  const auto* header = reinterpret_cast<const Header*>(args.packed);
  const Section section = find_section(*header, args.chunk, args.row_block);
  const int32_t rows = section.rows, cols = section.cols;
  const auto* w = reinterpret_cast<const typename Form::Weight*>(header + 1) + section.first_weight;
  const float* x = args.x + static_cast<int64_t>(section.first_col) * kTile;
  const bool add = args.chunk > 0;
  int32_t r = 0;
  for (; rows - r > kRestRows; r += kGroupRowsAvx512, w += static_cast<int64_t>(kGroupRowsAvx512) * cols)
    multiply_rows<Form, kGroupRowsAvx512>(w, x, cols, rows - r, args.tokens, add, args.acc + r * kTile);
  if (r < rows) multiply_rows<Form, kRestRows>(w, x, cols, rows - r, args.tokens, add, args.acc + r * kTile);
}

}  // namespace
}  // namespace secateur
