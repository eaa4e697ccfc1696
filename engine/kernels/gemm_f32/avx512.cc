// Eight rows by 32 tokens in registers: sixteen chains, and 10 loads go with 16 multiplications.
#include <cstdint>

#include "base/avx512.h"
#include "kernels/gemm_f32/gemm_f32.h"
#include "kernels/gemm_f32/packed.h"

namespace secateur {
namespace {

using namespace gemm_f32;

constexpr int32_t kLanes = 16;

// kRows rows x kLanes * kVectors tokens over `cols` columns; `add`: a later chunk adds to what is there. Of the last
// group only `live` rows are there.
template <int kRows, int kVectors>
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
      for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_fmadd_ps(tokens[v], weight, sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      if (r < live) _mm512_store_ps(acc + r * kTile + kLanes * v, sums[r][v]);
}

template <int kVectors>
void multiply(const ProductF32Args& args) {
  const auto* header = reinterpret_cast<const Header*>(args.packed);
  const int32_t first = args.chunk * header->chunk_cols;
  const int32_t cols = header->cols - first < header->chunk_cols ? header->cols - first : header->chunk_cols;
  const int32_t left = header->rows - args.row_block * kRowBlock, rows = left < kRowBlock ? left : kRowBlock;
  const float* w = reinterpret_cast<const float*>(header + 1) + static_cast<int64_t>(first) * header->padded_rows +
                   static_cast<int64_t>(args.row_block) * header->block_rows * cols;
  const float* x = args.x + static_cast<int64_t>(first) * kTile;
  const bool add = args.chunk > 0;
  int32_t r = 0;
  for (; rows - r > kRestRows; r += kGroupRowsAvx512, w += static_cast<int64_t>(kGroupRowsAvx512) * cols)
    multiply_group<kGroupRowsAvx512, kVectors>(w, x, cols, rows - r, add, args.acc + r * kTile);
  if (r < rows) multiply_group<kRestRows, kVectors>(w, x, cols, rows - r, add, args.acc + r * kTile);
}

}  // namespace

void gemm_f32_8x32_avx512(const ProductF32Args& args) {
  if (args.tokens > kLanes)
    multiply<2>(args);
  else
    multiply<1>(args);
}

}  // namespace secateur
