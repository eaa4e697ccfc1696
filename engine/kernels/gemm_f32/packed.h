// What pack_gemm_f32_<set> writes and gemm_f32_<set> reads; the sets differ in the rows of a group only.
//
//   Header; then for each chunk of K, for each row block, for each group of its rows: the weights
//   f32 [columns of the chunk][rows of the group]. What is left of a row block after its whole groups is a group of
//   kRestRows rows where that is enough, else a whole one; rows that are not there are zeros, and nothing is stored
//   for them.
#pragma once
#include <cstdint>

namespace secateur::gemm_f32 {

// Columns of a chunk: its share of a tile, 24 KB, leaves room in the first cache for weights and sums.
inline constexpr int32_t kChunkCols = 192;
inline constexpr int32_t kGroupRowsAvx2 = 6, kGroupRowsAvx512 = 8;
inline constexpr int32_t kRestRows = 4;

struct Header {
  int32_t rows, cols;
  int32_t chunk_cols;   // of every chunk but the last, which may have fewer
  int32_t block_rows;   // of every row block but the last, with what pads its last group
  int32_t padded_rows;  // of all row blocks
  int32_t unused[11];   // the weights begin at a cache line
};

}  // namespace secateur::gemm_f32
