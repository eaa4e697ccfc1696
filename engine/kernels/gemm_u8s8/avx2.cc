// Four rows by 16 tokens in registers. Of two blocks a vector of products costs two vpmaddubsw, an addition in int16,
// vpmaddwd and an addition; the two multipliers limit it to 43 products a cycle, 32 where blocks are not paired.
#include <immintrin.h>

#include <cstdint>

#include "kernels/gemm_u8s8/gemm_u8s8.h"
#include "kernels/gemm_u8s8/packed_avx2.h"

namespace secateur {
namespace {

using namespace gemm_avx2;

inline __m256i load(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }

// 8 * kVectors tokens of four rows.
template <int kVectors>
void multiply_group(const uint8_t* stream, const Group& group, const uint8_t* x, const int32_t* start, int32_t rows,
                    int32_t* acc) {
  constexpr int64_t kBlockBytes = kTile * kBlock;
  __m256i sums[kGroupRows][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kGroupRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm256_set1_epi32(start[r]);
  const __m256i ones = _mm256_set1_epi16(1);
  const auto* pair = reinterpret_cast<const Pair*>(stream);
  for (const Pair* const end = pair + group.pairs; pair != end; ++pair) {
    const uint8_t *x0 = x + pair->block[0] * kBlockBytes, *x1 = x + pair->block[1] * kBlockBytes;
    __m256i first[kVectors], second[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      first[v] = load(x0 + 32 * v);
      second[v] = load(x1 + 32 * v);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kGroupRows; ++r) {
      const __m256i w0 = _mm256_set1_epi32(pair->first[r]), w1 = _mm256_set1_epi32(pair->second[r]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const __m256i both = _mm256_add_epi16(_mm256_maddubs_epi16(first[v], w0), _mm256_maddubs_epi16(second[v], w1));
        sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(both, ones));
      }
    }
  }
  const auto* single = reinterpret_cast<const Single*>(pair);
  for (const Single* const end = single + group.singles; single != end; ++single) {
    __m256i tokens[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) tokens[v] = load(x + single->block * kBlockBytes + 32 * v);
#pragma GCC unroll 4
    for (int r = 0; r < kGroupRows; ++r) {
      const __m256i magnitudes = _mm256_set1_epi32(single->magnitudes[r]), flip = _mm256_set1_epi32(single->flip[r]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const __m256i halves = _mm256_maddubs_epi16(magnitudes, _mm256_xor_si256(flip, tokens[v]));
        sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(halves, ones));
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
  const auto* groups = reinterpret_cast<const Group*>(args.packed + header->groups_begin);
  const int32_t begin = args.row_block * kRowBlock;
  const int32_t rows = header->rows - begin < kRowBlock ? header->rows - begin : kRowBlock;
  // Tokens are outermost: half a tile of the widest layer still fits the first cache while all rows pass over it.
  for (int32_t t = 0; t < args.tokens; t += 16) {
    const uint8_t* x = args.x + t * kBlock;
    for (int32_t r = 0; r < rows; r += kGroupRows) {
      const Group& group = groups[(begin + r) / kGroupRows];
      const uint8_t* stream = args.packed + group.begin;
      int32_t* acc = args.acc + r * kTile + t;
      if (args.tokens - t > 8)
        multiply_group<2>(stream, group, x, start + begin + r, rows - r, acc);
      else
        multiply_group<1>(stream, group, x, start + begin + r, rows - r, acc);
    }
  }
}

}  // namespace secateur
