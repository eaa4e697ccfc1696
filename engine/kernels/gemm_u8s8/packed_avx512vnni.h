// What pack_gemm_avx512vnni writes and gemm_u8s8_8x32_avx512vnni reads: Header, then groups of eight rows (the last
// one of four where N is no multiple of eight), each s8 [K/4][rows of the group][4].
#pragma once
#include <cstdint>

namespace secateur::gemm_avx512vnni {

inline constexpr int32_t kGroupRows = 8;
inline constexpr int32_t kHalfGroupRows = 4;

struct Header {
  int32_t rows, cols;
  int32_t unused[14];  // the weights begin at a cache line
};

}  // namespace secateur::gemm_avx512vnni
