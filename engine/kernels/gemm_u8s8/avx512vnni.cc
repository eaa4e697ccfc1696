#include <cstdint>

#include "base/avx512.h"
#include "kernels/gemm_u8s8/gemm_u8s8.h"
#include "kernels/gemm_u8s8/packed_avx512vnni.h"

namespace secateur {
namespace {

using namespace gemm_avx512vnni;

// kRows rows x 16 * kVectors tokens over all of K: sixteen sums in registers, a broadcast feeds two dot products.
// The loops over registers are unrolled by name: later passes would leave the sums on the stack.
template <int kRows, int kVectors>
void multiply_group(const uint8_t* x, const uint8_t* w, int32_t blocks, int32_t* acc) {
  __m512i sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_setzero_si512();
  const uint8_t* const end = w + static_cast<int64_t>(blocks) * kRows * kBlock;
  for (; w < end; w += kRows * kBlock, x += kTile * kBlock) {
    __m512i tokens[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) tokens[v] = _mm512_load_si512(x + 64 * v);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      int32_t word;
      __builtin_memcpy(&word, w + r * kBlock, sizeof(word));
      const __m512i weights = _mm512_set1_epi32(word);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[r][v] = dpbusd(sums[r][v], tokens[v], weights);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) _mm512_store_si512(acc + r * kTile + 16 * v, sums[r][v]);
}

template <int kVectors>
void multiply(const ProductArgs& args) {
  Header header;
  __builtin_memcpy(&header, args.packed, sizeof(header));
  const int32_t begin = args.row_block * kRowBlock, left = header.rows - begin;
  const int32_t rows = left < kRowBlock ? left : kRowBlock, blocks = header.cols / kBlock;
  const uint8_t* w = args.packed + sizeof(header) + static_cast<int64_t>(begin) * header.cols;
  int32_t* acc = args.acc;
  int32_t row = 0;
  for (; row + kGroupRows <= rows; row += kGroupRows) {
    multiply_group<kGroupRows, kVectors>(args.x, w, blocks, acc);
    w += static_cast<int64_t>(kGroupRows) * header.cols;
    acc += kGroupRows * kTile;
  }
  if (row < rows) multiply_group<kHalfGroupRows, kVectors>(args.x, w, blocks, acc);
}

}  // namespace

void gemm_u8s8_8x32_avx512vnni(const ProductArgs& args) {
  if (args.tokens > 16)
    multiply<2>(args);
  else
    multiply<1>(args);
}

}  // namespace secateur
