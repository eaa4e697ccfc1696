// What pack_spmm_avx512vnni writes and spmm_u8s8_block4_4x32_avx512vnni reads.
//
//   Header, section offsets u64 [num_chunks][num_row_blocks], then the sections in that order, each 64-byte aligned:
//     Group [num_groups]                       rows of a row block, sorted by length, four in lock step
//     a stream for each group, 16-byte aligned, in the order of the groups:
//       weights s8 [steps][4 rows][4]          a step is one block of every row; short rows are padded with zeros
//       offsets u16 [steps][4 rows]            of the block's activations in the tile, in units of 8 bytes
#pragma once
#include <cstdint>

namespace secateur::spmm_avx512vnni {

inline constexpr int32_t kGroupRows = 4;
inline constexpr int32_t kOffsetUnit = 8;

struct Header {
  int32_t num_row_blocks;
  int32_t unused;
};

struct Group {
  int32_t steps;
  uint8_t row[kGroupRows];  // within the row block
};

struct Section {
  int32_t num_groups;
  int32_t unused;
};

}  // namespace secateur::spmm_avx512vnni
