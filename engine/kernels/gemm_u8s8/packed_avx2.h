// What pack_gemm_avx2 writes and gemm_u8s8_4x16_avx2 reads.
//
//   Header, start i32 [rows padded to 4], padded to 64 bytes; then for each group of four rows, for each block of K:
//   the four rows' magnitudes (4 x u8 each), then their flips (4 x u8 each).
//
// vpmaddubsw saturates at int16, so the weight's magnitude is the unsigned operand and x ^ flip the signed one; see
// spmm_u8s8/packed_avx2.h. The accumulator of a row starts at the sum of the constants that this leaves out.
#pragma once
#include <cstdint>

namespace secateur::gemm_avx2 {

inline constexpr int32_t kGroupRows = 4;
inline constexpr uint8_t kFlipPositive = 0x80, kFlipNegative = 0x7f;

struct Header {
  int32_t rows, blocks_a_row;
  int64_t groups_begin;  // bytes from the start
};

struct Step {
  int32_t magnitudes[kGroupRows], flip[kGroupRows];
};

}  // namespace secateur::gemm_avx2
