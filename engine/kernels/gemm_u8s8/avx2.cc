// Four rows by 16 tokens in registers. A vector of products costs an xor, vpmaddubsw, vpmaddwd and an addition; the
// two multipliers limit it to 32 products a cycle.
#include <immintrin.h>

#include <cstdint>

#include "kernels/gemm_u8s8/gemm_u8s8.h"
#include "kernels/gemm_u8s8/packed_avx2.h"

namespace secateur {
namespace {

using namespace gemm_avx2;

// 8 * kVectors tokens of four rows.
template <int kVectors>
void multiply_group(const Step* steps, int32_t count, const uint8_t* x, const int32_t* start, int32_t rows,
                    int32_t* acc) {
  __m256i sums[kGroupRows][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kGroupRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm256_set1_epi32(start[r]);
  const __m256i ones = _mm256_set1_epi16(1);
  for (const Step* const end = steps + count; steps != end; ++steps, x += kTile * kBlock) {
    __m256i tokens[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) tokens[v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(x + 32 * v));
#pragma GCC unroll 4
    for (int r = 0; r < kGroupRows; ++r) {
      const __m256i magnitudes = _mm256_set1_epi32(steps->magnitudes[r]), flip = _mm256_set1_epi32(steps->flip[r]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const __m256i pairs = _mm256_maddubs_epi16(magnitudes, _mm256_xor_si256(flip, tokens[v]));
        sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(pairs, ones));
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kGroupRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      if (r < rows) _mm256_store_si256(reinterpret_cast<__m256i*>(acc + r * kTile + 8 * v), sums[r][v]);
}

}  // namespace

void gemm_u8s8_4x16_avx2(const ProductArgs& args) {
  const auto* header = reinterpret_cast<const Header*>(args.packed);
  const auto* start = reinterpret_cast<const int32_t*>(header + 1);
  const auto* steps = reinterpret_cast<const Step*>(args.packed + header->groups_begin);
  const int32_t blocks = header->blocks_a_row, begin = args.row_block * kRowBlock;
  const int32_t rows = header->rows - begin < kRowBlock ? header->rows - begin : kRowBlock;
  // Tokens are outermost: half a tile of the widest layer still fits the first cache while all rows pass over it.
  for (int32_t t = 0; t < args.tokens; t += 16) {
    const uint8_t* x = args.x + t * kBlock;
    for (int32_t r = 0; r < rows; r += kGroupRows) {
      const Step* group = steps + static_cast<int64_t>((begin + r) / kGroupRows) * blocks;
      int32_t* acc = args.acc + r * kTile + t;
      if (args.tokens - t > 8)
        multiply_group<2>(group, blocks, x, start + begin + r, rows - r, acc);
      else
        multiply_group<1>(group, blocks, x, start + begin + r, rows - r, acc);
    }
  }
}

}  // namespace secateur
