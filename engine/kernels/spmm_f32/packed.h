// What pack_spmm_f32_<set> writes and spmm_f32_<set> reads; the sets differ in the rows of a group and in the
// form of its steps.
//
//   Header, section offsets u64 [num_chunks][num_row_blocks], then the sections in that order, each 64-byte aligned.
//   A section is a row block of one chunk of K, its rows sorted by their number of entries:
//     Section
//     Group [num_groups]    kRows rows each; the next group is never shorter
//     Lone [num_lone]       the rows that fill no group, and what a group leaves of a row where that is much
//     the steps of each group, 16-byte aligned: the next entry of all its rows, while each of them has one
//     Single [entries] of each Lone
//     Single [num_singles]  what else the groups leave: first the next entry of each row, then the one after it
//   Nothing is padded with entries: none is neutral (spmm_f32.h).
#pragma once
#include <cstdint>

#include "kernels/layout.h"

namespace secateur::spmm_f32 {

inline constexpr int32_t kMaxGroupRows = 4;
inline constexpr int32_t kOffsetUnit = 8;  // bytes; offsets are of a column's activations in the chunk
inline constexpr int32_t kColumnUnits = kTile * 4 / kOffsetUnit;
inline constexpr int32_t kMaxChunkCols = 512;

struct Header {
  int32_t num_row_blocks;
  int32_t chunk_cols;  // of every chunk but the last, which may have fewer
};

struct Section {
  int32_t num_groups, num_lone, num_singles;
};

struct Group {
  uint16_t steps;
  uint8_t row[kMaxGroupRows];  // within the row block
};

struct Lone {
  uint16_t entries;
  uint8_t row;
  uint8_t continues;  // a group has begun the row's sums
};

struct Single {
  float weight;
  uint16_t offset, row;
};

// avx2: StepAvx2 [steps]. Three weights and their columns, ten bits each and times kColumnUnits already where they are
// masked: columns & kColumnMask, columns >> 10 & kColumnMask, columns rotated right by 20 & kColumnMask.
inline constexpr uint32_t kColumnMask = 1023 * kColumnUnits;
struct StepAvx2 {
  static constexpr int32_t kRows = 3;
  float weights[kRows];
  uint32_t columns;
};

// avx512: weights f32 [steps][4 rows], then offsets u16 [steps][4 rows].
struct StepAvx512 {
  static constexpr int32_t kRows = 4;
  static constexpr int32_t kWeightBytes = kRows * sizeof(float);
  static constexpr int32_t kOffsetBytes = kRows * sizeof(uint16_t);
};

static_assert(kColumnUnits == 16 && kMaxChunkCols <= 1024 && kMaxChunkCols >= 384);

}  // namespace secateur::spmm_f32
