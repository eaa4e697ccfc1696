// What pack_spmm_avx2 writes and spmm_u8s8_block4_1x32_avx2 reads.
//
//   Header, section offsets u64 [num_chunks][num_row_blocks], then the sections in that order. A section is a row
//   block of one chunk of K: for each row (sorted, so that loop counts repeat) a Row, its Pairs, its Singles.
//
// vpmaddubsw adds two products u8 x s8 and saturates at int16. A Pair is two blocks whose products may be added in
// int16 before they are widened: in each half of a block the positive weights of both sum to at most 128 and the
// negative ones to at least -128, and 255 * 128 fits. All other blocks are Singles, which no weight can overflow:
// the operands change places, |w| is the unsigned one and x is made signed by x ^ flip, where
//   w >= 0: flip 0x80,  w * x = |w| * (x - 128) + 128 * w        |w| * |x ^ flip| <= 127 * 128, and two of them fit
//   w <  0: flip 0x7f,  w * x = |w| * (127 - x) + 127 * w
// so the accumulator starts at the row's `start`, the sum of the constants.
#pragma once
#include <cstdint>

namespace secateur::spmm_avx2 {

inline constexpr int32_t kChunkCols = 768;  // 24 KB of activations: the first cache holds them and the sums
inline constexpr int32_t kOffsetUnit = 8;   // bytes; offsets are of a block's activations in the tile
inline constexpr int32_t kPairLimit = 128;
inline constexpr uint8_t kFlipPositive = 0x80, kFlipNegative = 0x7f;

struct Header {
  int32_t num_row_blocks;
  int32_t unused;
};

struct Row {
  int32_t start;
  uint16_t pairs, singles;
  uint16_t index;    // within the row block
  uint16_t is_last;  // of the section
};

struct Pair {
  uint16_t offset[2];
  int32_t weights[2];  // 4 x s8 each
};

struct Single {
  uint16_t offset;
  uint16_t unused;
  int32_t magnitudes;  // 4 x u8
  int32_t flip;        // 4 x u8
};

}  // namespace secateur::spmm_avx2
