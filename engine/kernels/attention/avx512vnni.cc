#include <cstdint>

#include "base/avx512.h"
#include "kernels/attention/attention.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 16;
constexpr int32_t kWordStride = kTile * kBlock;  // bytes from one word of four channels to the next

// What the queries of a call share. Keys are counted from key_begin.
struct Scratch {
  int32_t* start;        // [keys] -query_zero_point * sum_d k[j][d]; 16 unused entries before and after
  int32_t* score;        // [keys][lanes]
  uint8_t* probability;  // [keys / 4][lanes][4]
};

Scratch divide_scratch(const AttentionArgs& args) {
  const int64_t padded = (args.key_end - args.key_begin + 63) / 64 * 64;
  uint8_t* const base = args.scratch;
  return {reinterpret_cast<int32_t*>(base) + kLanes, reinterpret_cast<int32_t*>(base + (padded + 64) * 4),
          base + (padded + 64) * 4 + padded * kTile * 4};
}

const int8_t* key_at(const AttentionArgs& args, int32_t token) {
  return args.key + token / kTile * args.key_stride + token % kTile * kBlock;
}

// The zero point of the queries: where the sum of a score starts. Half a tile of keys at a time.
void start_scores(const AttentionArgs& args, const Scratch& scratch) {
  const __m512i ones = _mm512_set1_epi8(1);
  for (int32_t token = args.key_begin / kLanes * kLanes; token < args.key_end; token += kLanes) {
    uint32_t mask = 0xffff;
    if (token < args.key_begin) mask &= 0xffffu << (args.key_begin - token);
    if (token + kLanes > args.key_end) mask &= 0xffffu >> (token + kLanes - args.key_end);
    const int8_t* key = key_at(args, token);
    __m512i sum = _mm512_setzero_si512();
    for (int32_t d = 0; d < args.head_dim; d += kBlock, key += kWordStride)
      sum = dpbusd(sum, ones, _mm512_maskz_loadu_epi32(static_cast<__mmask16>(mask), key));
    _mm512_mask_storeu_epi32(scratch.start + (token - args.key_begin), static_cast<__mmask16>(mask),
                             _mm512_mullo_epi32(sum, _mm512_set1_epi32(-args.query_zero_point)));
  }
}

__attribute__((always_inline)) inline __m512i broadcast_word(const void* from) {
  int32_t word;
  __builtin_memcpy(&word, from, sizeof(word));
  return _mm512_set1_epi32(word);
}

// Scores of kKeys keys of one tile for 16 * kVectors queries.
template <int kVectors, int kKeys>
__attribute__((always_inline)) inline void score_keys(const uint8_t* query, const int8_t* key, int32_t head_dim,
                                                      const int32_t* start, int32_t* score,
                                                      __m512i (&highest)[kVectors]) {
  __m512i sums[kKeys][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kKeys; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[i][v] = _mm512_set1_epi32(start[i]);
  const uint8_t* const query_end = query + head_dim / kBlock * kWordStride;
  do {  // at least once: a loop that might not run costs copies of all sums
    __m512i q[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) q[v] = _mm512_load_si512(query + 64 * v);
#pragma GCC unroll 8
    for (int i = 0; i < kKeys; ++i) {
      const __m512i word = broadcast_word(key + i * kBlock);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[i][v] = dpbusd(sums[i][v], q[v], word);
    }
    query += kWordStride;
    key += kWordStride;
  } while (query < query_end);
#pragma GCC unroll 8
  for (int i = 0; i < kKeys; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      highest[v] = _mm512_max_epi32(highest[v], sums[i][v]);
      _mm512_store_si512(score + (i * kVectors + v) * kLanes, sums[i][v]);
    }
}

// All scores, [keys][16 * kVectors], and the highest of each query. Groups of keys do not cross a tile.
template <int kVectors>
void score_all(const AttentionArgs& args, const uint8_t* query, const Scratch& scratch, __m512i (&highest)[kVectors]) {
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) highest[v] = _mm512_set1_epi32(INT32_MIN);
  for (int32_t token = args.key_begin; token < args.key_end;) {
    const int32_t tile_end = (token / kTile + 1) * kTile;
    const int32_t left = (tile_end < args.key_end ? tile_end : args.key_end) - token;
    const int32_t j = token - args.key_begin;
    const int8_t* key = key_at(args, token);
    int32_t* score = scratch.score + static_cast<int64_t>(j) * kVectors * kLanes;
    if (left >= 8) {
      score_keys<kVectors, 8>(query, key, args.head_dim, scratch.start + j, score, highest);
      token += 8;
    } else if (left >= 4) {
      score_keys<kVectors, 4>(query, key, args.head_dim, scratch.start + j, score, highest);
      token += 4;
    } else {
      score_keys<kVectors, 1>(query, key, args.head_dim, scratch.start + j, score, highest);
      token += 1;
    }
  }
}

// p of the header's formula for 16 queries and one key. 2^n is exact: poly(f) * 2^n never leaves the normal range.
__attribute__((always_inline)) inline __m512i probability(__m512i score, __m512i highest, __m512 exponent_scale) {
  const __m512 a = _mm512_cvtepi32_ps(_mm512_sub_epi32(score, highest));
  const __m512 y = _mm512_max_ps(_mm512_set1_ps(kExpFloor), _mm512_mul_ps(a, exponent_scale));
  const __m512 n = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(y, n);
  __m512 p = _mm512_set1_ps(kExp2x255[kExpDegree]);
#pragma GCC unroll 4
  for (int i = kExpDegree - 1; i >= 0; --i) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2x255[i]));
  return _mm512_cvtps_epi32(_mm512_scalef_ps(p, n));
}

// Four rows of 16 tokens, s16 pairs of rows in each lane, to 16 tokens of four bytes.
__attribute__((always_inline)) inline __m512i pack_u8(__m512i low, __m512i high) {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_shuffle_epi8(_mm512_packus_epi16(low, high), _mm512_broadcast_i32x4(order));
}

// Scores of kKeys keys to one word of probabilities a query; the word's other keys get 0.
template <int kVectors, int kKeys>
__attribute__((always_inline)) inline __m512i probability_words(const int32_t* score, __m512i highest,
                                                                __m512 exponent_scale) {
  __m512i p[kBlock];
#pragma GCC unroll 4
  for (int i = 0; i < kBlock; ++i)
    p[i] = i < kKeys ? probability(_mm512_load_si512(score + i * kVectors * kLanes), highest, exponent_scale)
                     : _mm512_setzero_si512();
  return pack_u8(_mm512_packs_epi32(p[0], p[1]), _mm512_packs_epi32(p[2], p[3]));
}

// Words of all keys, [keys / 4][16 * kVectors], and the sum of each query's probabilities.
template <int kVectors>
void normalise_scores(const AttentionArgs& args, const Scratch& scratch, const __m512i (&highest)[kVectors],
                      __m512i (&total)[kVectors]) {
  const int32_t keys = args.key_end - args.key_begin, whole = keys / kBlock * kBlock;
  const __m512 exponent_scale = _mm512_set1_ps(args.exponent_scale);
  const __m512i ones = _mm512_set1_epi8(1);
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    const int32_t* score = scratch.score + v * kLanes;
    uint8_t* out = scratch.probability + 64 * v;
    __m512i sum = _mm512_setzero_si512(), words;
    for (int32_t j = 0; j < whole; j += kBlock, score += kBlock * kVectors * kLanes, out += kVectors * 64) {
      words = probability_words<kVectors, 4>(score, highest[v], exponent_scale);
      _mm512_store_si512(out, words);
      sum = dpbusd(sum, words, ones);
    }
    if (keys > whole) {
      words = keys - whole == 1   ? probability_words<kVectors, 1>(score, highest[v], exponent_scale)
              : keys - whole == 2 ? probability_words<kVectors, 2>(score, highest[v], exponent_scale)
                                  : probability_words<kVectors, 3>(score, highest[v], exponent_scale);
      _mm512_store_si512(out, words);
      sum = dpbusd(sum, words, ones);
    }
    total[v] = sum;
  }
}

// How the sums over values become output, and where: channel c of token t stands at [c][t - first] of its tile.
template <int kVectors>
struct Output {
  uint8_t* out;  // or nullptr
  float* out_f32;
  __m512 normalise[kVectors];
  __m512 inv_scale;
  __m512i zero_point;  // s16
  __mmask16 mask[kVectors];
};

// kChannels channels, a multiple of 4, of 16 * kVectors queries.
template <int kVectors, int kChannels>
__attribute__((always_inline)) inline void sum_values(const AttentionArgs& args, const uint8_t* probability,
                                                      int32_t channel, const Output<kVectors>& output) {
  __m512i sums[kChannels][kVectors];
#pragma GCC unroll 8
  for (int c = 0; c < kChannels; ++c)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[c][v] = _mm512_setzero_si512();
  const int8_t* value = args.value + args.key_begin + channel * args.value_stride;
  const int8_t* const value_end = value + (args.key_end - args.key_begin);
  do {
    __m512i p[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) p[v] = _mm512_load_si512(probability + 64 * v);
#pragma GCC unroll 8
    for (int c = 0; c < kChannels; ++c) {
      const __m512i word = broadcast_word(value + c * args.value_stride);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[c][v] = dpbusd(sums[c][v], p[v], word);
    }
    probability += kVectors * 64;
    value += kBlock;
  } while (value < value_end);
#pragma GCC unroll 8
  for (int c = 0; c < kChannels; c += kBlock)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      __m512 y[kBlock];
      __m512i q[kBlock];
#pragma GCC unroll 4
      for (int i = 0; i < kBlock; ++i) y[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[c + i][v]), output.normalise[v]);
      if (output.out == nullptr) {
        float* const to = output.out_f32 + (channel + c) * kTile + v * kLanes;
#pragma GCC unroll 4
        for (int i = 0; i < kBlock; ++i)
          _mm512_mask_storeu_epi32(to + i * kTile, output.mask[v], _mm512_castps_si512(y[i]));
        continue;
      }
#pragma GCC unroll 4
      for (int i = 0; i < kBlock; ++i) q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(y[i], output.inv_scale));
      const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), output.zero_point);
      const __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), output.zero_point);
      _mm512_mask_storeu_epi32(output.out + (channel + c) / kBlock * kWordStride + 64 * v, output.mask[v],
                               pack_u8(low, high));
    }
}

// Queries `begin` .. `end` - 1 of the 16 * kVectors lanes from token `first` on.
template <int kVectors>
void attend(const AttentionArgs& args, const Scratch& scratch, int32_t first, int32_t begin, int32_t end) {
  const int64_t tile = first / kTile, lane_bytes = first % kTile * kBlock;
  __m512i highest[kVectors], total[kVectors];
  score_all<kVectors>(args, args.query + tile * args.query_stride + lane_bytes, scratch, highest);
  normalise_scores<kVectors>(args, scratch, highest, total);

  Output<kVectors> output;
  output.out = args.out == nullptr ? nullptr : args.out + tile * args.out_stride + lane_bytes;
  output.out_f32 = args.out != nullptr ? nullptr : args.out_f32 + tile * args.out_stride + first % kTile;
  output.inv_scale = _mm512_set1_ps(args.inv_scale);
  output.zero_point = _mm512_set1_epi16(static_cast<int16_t>(args.zero_point));
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    output.normalise[v] = _mm512_div_ps(_mm512_set1_ps(args.value_scale), _mm512_cvtepi32_ps(total[v]));
    uint32_t mask = 0xffff;
    const int32_t lane = first + v * kLanes;
    if (lane < begin) mask &= begin - lane < kLanes ? 0xffffu << (begin - lane) : 0;
    if (lane + kLanes > end) mask &= lane < end ? 0xffffu >> (lane + kLanes - end) : 0;
    output.mask[v] = static_cast<__mmask16>(mask);
  }
  int32_t c = 0;
  for (; c + 8 <= args.head_dim; c += 8) sum_values<kVectors, 8>(args, scratch.probability, c, output);
  if (c < args.head_dim) sum_values<kVectors, 4>(args, scratch.probability, c, output);
}

}  // namespace

void attention_avx512vnni(const AttentionArgs& given) {
  const AttentionArgs args = given;  // a copy: no store can alias it
  const Scratch scratch = divide_scratch(args);
  start_scores(args, scratch);
  for (int32_t begin = args.query_begin; begin < args.query_end;) {
    const int32_t tile = begin / kTile * kTile, half = tile + kLanes;
    const int32_t end = tile + kTile < args.query_end ? tile + kTile : args.query_end;
    if (end <= half)
      attend<1>(args, scratch, tile, begin, end);
    else if (begin >= half)
      attend<1>(args, scratch, half, begin, end);
    else
      attend<2>(args, scratch, tile, begin, end);
    begin = end;
  }
}

}  // namespace secateur
