// Eight channels of a token at a time from the rows, then 8 x 8 transposes into the channel-major tile.
#include <immintrin.h>

#include <cstdint>

#include "kernels/embedding/embedding.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 8;

// `count` (4 or 8) channels of row `row` from channel n.
inline __m256 values(const EmbeddingTable& table, int64_t row, int32_t channels, int32_t n, int32_t count) {
  if (table.rows_f32 != nullptr) {
    const float* p = table.rows_f32 + row * channels + n;
    return count == kLanes ? _mm256_loadu_ps(p) : _mm256_zextps128_ps256(_mm_loadu_ps(p));
  }
  const auto* p = reinterpret_cast<const __m128i*>(table.rows + row * channels + n);
  const __m128i bytes = count == kLanes ? _mm_loadl_epi64(p) : _mm_loadu_si32(p);
  return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_set1_ps(table.scale[row]));
}

inline void transpose(__m256 (&r)[kLanes]) {
  __m256 a[kLanes], b[kLanes];
  for (int32_t i = 0; i < kLanes; i += 2) {
    a[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int32_t i = 0; i < kLanes; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int32_t i = 0; i < kLanes / 2; ++i) {
    r[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}

inline void embed(const EmbeddingArgs& args, int32_t t, int32_t n, int32_t count) {
  __m256 sum[kLanes];
  for (int32_t i = 0; i < kLanes; ++i) {
    sum[i] = _mm256_setzero_ps();
    if (t + i >= args.tokens) continue;
    const __m256 word = values(args.word, args.word_id[t + i], args.channels, n, count);
    const __m256 type = values(args.token_type, args.token_type_id[t + i], args.channels, n, count);
    const __m256 position = values(args.position, args.position_id[t + i], args.channels, n, count);
    sum[i] = _mm256_add_ps(_mm256_add_ps(word, type), position);
  }
  transpose(sum);
  for (int32_t i = 0; i < count; ++i) _mm256_store_ps(args.h + (n + i) * kTile + t, sum[i]);
}

}  // namespace

void embedding_avx2(const EmbeddingArgs& args) {
  for (int32_t t = 0; t < kTile; t += kLanes) {
    int32_t n = 0;
    for (; n + kLanes <= args.channels; n += kLanes) embed(args, t, n, kLanes);
    if (n < args.channels) embed(args, t, n, args.channels - n);
  }
}

}  // namespace secateur
