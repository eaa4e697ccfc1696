// What pack_spmm_f32_<set> writes and spmm_f32_<set> reads; the sets differ in the form of a Step.
//
//   Header, section offsets u64 [num_chunks][num_row_blocks], then the sections in that order, each 64-byte aligned.
//   A section is a row block of one chunk of K:
//     Group [num_groups]            rows of the block sorted by length, so many in lock step as a Step has weights
//     a stream for each group, 16-byte aligned, in the order of the groups:
//       Step [steps]                the next entry of every row, as long as all of them have one
//       Single [singles of row 0], of row 1, ...   what is left of each row
//   The rows that do not fill a group are the first one, without steps. Nothing is padded with entries: none is
//   neutral (spmm_f32.h).
#pragma once
#include <cstdint>

#include "kernels/layout.h"

namespace secateur::spmm_f32 {

// Columns of a chunk: its share of a tile, 24 KB, leaves room in the first cache for weights and sums.
inline constexpr int32_t kChunkCols = 192;
inline constexpr int32_t kMaxGroupRows = 4;

struct Header {
  int32_t num_row_blocks;
  int32_t chunk_cols;  // of every chunk but the last, which may have fewer
};

struct Section {
  int32_t num_groups;
  int32_t unused;
};

struct Group {
  uint16_t steps;
  uint16_t singles[kMaxGroupRows];
  uint8_t row[kMaxGroupRows];  // within the row block
  uint16_t rows;               // live ones
};

struct Single {
  float weight;
  uint32_t offset;  // of the activations in the chunk, in units of kOffsetUnit bytes
};

inline constexpr int32_t kOffsetUnit = 8;
inline constexpr int32_t kColumnUnits = kTile * 4 / kOffsetUnit;

// Three weights and their columns, ten bits each and already times kColumnUnits where they are masked:
// columns & kMask, columns >> 10 & kMask, columns rotated right by 20 & kMask.
struct StepAvx2 {
  static constexpr int32_t kRows = 3;
  static constexpr uint32_t kMask = 1023 * kColumnUnits;
  float weights[kRows];
  uint32_t columns;
};
static_assert(kColumnUnits == 16 && kChunkCols <= 1024);

}  // namespace secateur::spmm_f32
