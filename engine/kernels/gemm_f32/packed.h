// What pack_gemm_f32_<set> writes and gemm_f32_<set> reads; the sets differ in the rows of a group only.
//
//   Header; then for each chunk of K, for each row block, for each group of its rows: the weights
//   f32 [columns of the chunk][rows of the group]. What is left of a row block after its whole groups is a group of
//   kRestRows rows where that is enough, else a whole one; rows that are not there are zeros, and nothing is stored
//   for them. gemm_bf16's are bfloat16 weights in the same places; its pairs are those of the matrix of pairs, a word
//   each (kernels/bf16.h).
#pragma once
#include <cstdint>

#include "kernels/layout.h"

namespace secateur::gemm_f32 {

// Columns of a chunk: its share of a tile, 24 KB, leaves room in the first cache for weights and sums.
inline constexpr int32_t kChunkCols = 192;
inline constexpr int32_t kGroupRowsAvx2 = 6, kGroupRowsAvx512 = 8;
inline constexpr int32_t kRestRows = 4;
inline constexpr int32_t kSlackBytes = 64;  // after the last weight: vectors may be read past it

struct Header {
  int32_t rows, cols;
  int32_t chunk_cols;   // of every chunk but the last, which may have fewer
  int32_t block_rows;   // of every row block but the last, with what pads its last group
  int32_t padded_rows;  // of all row blocks
  int32_t unused[11];   // the weights begin at a cache line
};

// What one call computes.
struct Section {
  int64_t first_weight;
  int32_t first_col, cols, rows;
};

inline Section find_section(const Header& header, int32_t chunk, int32_t row_block) {
  Section section{};
  section.first_col = chunk * header.chunk_cols;
  const int32_t cols = header.cols - section.first_col, rows = header.rows - row_block * kRowBlock;
  section.cols = cols < header.chunk_cols ? cols : header.chunk_cols;
  section.rows = rows < kRowBlock ? rows : kRowBlock;
  section.first_weight = static_cast<int64_t>(section.first_col) * header.padded_rows +
                         static_cast<int64_t>(row_block) * header.block_rows * section.cols;
  return section;
}

}  // namespace secateur::gemm_f32
