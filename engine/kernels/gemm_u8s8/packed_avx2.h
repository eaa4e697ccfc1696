// What pack_gemm_avx2 writes and gemm_u8s8_4x16_avx2 reads.
//
//   Header, start i32 [rows padded to 4], Group [rows / 4], then for each group of four rows its Pairs and its Singles.
//
// As in spmm_u8s8/packed_avx2.h: a Pair is two blocks of K whose products may be added in int16, here in all four rows;
// one block in three or so is a partner for another, so that nearly all find one. In a Single |w| is the unsigned
// operand and x ^ flip the signed one, and the accumulator of a row starts at the sum of the constants that this leaves
// out.
#pragma once
#include <cstdint>

namespace secateur::gemm_avx2 {

inline constexpr int32_t kGroupRows = 4;
inline constexpr int32_t kPairLimit = 128;  // of the positive and of the negative weights in each half of two blocks
inline constexpr uint8_t kFlipPositive = 0x80, kFlipNegative = 0x7f;

struct Header {
  int32_t rows;
  int32_t unused;
  int64_t groups_begin;  // bytes from the start
};

struct Group {
  int64_t begin;  // bytes from the start
  int32_t pairs, singles;
};

struct Pair {
  int32_t first[kGroupRows], second[kGroupRows];  // 4 x s8 each
  int32_t block[2];
};

struct Single {
  int32_t magnitudes[kGroupRows], flip[kGroupRows];  // 4 x u8 each
  int32_t block;
};

}  // namespace secateur::gemm_avx2
