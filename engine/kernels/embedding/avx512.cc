#include <cstdint>

#include "base/avx512.h"
#include "kernels/embedding/embedding.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 16;

// Channels n .. n + 15 of one row of a table; those that `mask` leaves out are not read.
__attribute__((always_inline)) inline __m512 row_values(const EmbeddingTable& table, int64_t row, int32_t channels,
                                                        int32_t n, __mmask16 mask) {
  const int64_t at = row * channels + n;
  if (table.rows_f32 != nullptr) return _mm512_castsi512_ps(_mm512_maskz_loadu_epi32(mask, table.rows_f32 + at));
  const __m128i bytes = _mm_maskz_loadu_epi8(mask, table.rows + at);
  return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), _mm512_set1_ps(table.scale[row]));
}

// row[i] lane j becomes row[j] lane i.
__attribute__((always_inline)) inline void transpose(__m512 (&row)[kLanes]) {
  __m512 a[kLanes], b[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 2) {
    a[i] = _mm512_unpacklo_ps(row[i], row[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(row[i], row[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 4)  // b[i + c]: lane group g holds channel 4 g + c of four tokens
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) {
      const __m512d low = _mm512_castps_pd(a[i + c]), high = _mm512_castps_pd(a[i + 2 + c]);
      b[i + 2 * c] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      b[i + 2 * c + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 p = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x88), q = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x88);
    const __m512 r = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xdd), s = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xdd);
    row[c] = _mm512_shuffle_f32x4(p, q, 0x88);
    row[8 + c] = _mm512_shuffle_f32x4(p, q, 0xdd);
    row[4 + c] = _mm512_shuffle_f32x4(r, s, 0x88);
    row[12 + c] = _mm512_shuffle_f32x4(r, s, 0xdd);
  }
}

// 16 tokens from `first` on, of which `live` exist.
void embed_lanes(const EmbeddingArgs& args, int32_t first, int32_t live) {
  for (int32_t n = 0; n < args.channels; n += kLanes) {
    const int32_t channels = args.channels - n < kLanes ? args.channels - n : kLanes;
    const auto mask = static_cast<__mmask16>((1u << channels) - 1);
    __m512 row[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      row[i] = _mm512_setzero_ps();
      if (i >= live) continue;
      const __m512 word = row_values(args.word, args.word_id[first + i], args.channels, n, mask);
      const __m512 type = row_values(args.token_type, args.token_type_id[first + i], args.channels, n, mask);
      const __m512 position = row_values(args.position, args.position_id[first + i], args.channels, n, mask);
      row[i] = _mm512_add_ps(_mm512_add_ps(word, type), position);
    }
    transpose(row);
    for (int i = 0; i < channels; ++i) _mm512_store_ps(args.h + static_cast<int64_t>(n + i) * kTile + first, row[i]);
  }
}

}  // namespace

void embedding_avx512(const EmbeddingArgs& args) {
  for (int32_t first = 0; first < kTile; first += kLanes) embed_lanes(args, first, args.tokens - first);
}

}  // namespace secateur
