#include <cstdint>

#include "base/avx512.h"
#include "kernels/attention_f32/attention_f32.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 16;

// acc[r][v] += w[r] * x[v] for `count` steps, at least one: a loop that might not run costs copies of all sums. From
// row to row w moves by kRowStride, from step to step by kStep; x moves by kStride.
template <int kRowStride, int kStep, int kStride, int kRows, int kVectors>
__attribute__((always_inline)) inline void add_products(__m512 (&acc)[kRows][kVectors], const float* w, const float* x,
                                                        int32_t count) {
  do {
    __m512 lanes[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) lanes[v] = _mm512_load_ps(x + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512 weight = _mm512_set1_ps(w[r * kRowStride]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[r][v] = _mm512_fmadd_ps(weight, lanes[v], acc[r][v]);
    }
    w += kStep;
    x += kStride;
  } while (--count != 0);
}

template <int kRows, int kVectors>
__attribute__((always_inline)) inline void clear(__m512 (&acc)[kRows][kVectors]) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) acc[r][v] = _mm512_setzero_ps();
}

// Scores of kRows keys of one tile, from `token` on, for 16 * kVectors queries.
template <int kVectors, int kRows>
__attribute__((always_inline)) inline void score_keys(const AttentionF32Args& args, int32_t token, const float* query,
                                                      float* score, __m512 (&highest)[kVectors]) {
  __m512 acc[kRows][kVectors];
  clear(acc);
  const float* key = args.key + token / kTile * args.key_stride + token % kTile;
  add_products<1, kTile, kTile>(acc, key, query, args.head_dim);
  float* const to = score + (token - args.key_begin) * kVectors * kLanes;
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      highest[v] = _mm512_max_ps(acc[r][v], highest[v]);  // the second operand is what a NaN leaves
      _mm512_store_ps(to + (r * kVectors + v) * kLanes, acc[r][v]);
    }
}

// All scores, [keys][16 * kVectors], and the highest of each query. Groups of keys do not cross a tile.
template <int kVectors>
void score_all(const AttentionF32Args& args, const float* query, float* score, __m512 (&highest)[kVectors]) {
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) highest[v] = _mm512_set1_ps(-__builtin_inff());
  for (int32_t t = args.key_begin; t < args.key_end;) {
    const int32_t tile_end = (t / kTile + 1) * kTile;
    const int32_t left = (tile_end < args.key_end ? tile_end : args.key_end) - t;
    if (left >= 8) {
      score_keys<kVectors, 8>(args, t, query, score, highest);
      t += 8;
    } else if (left >= 4) {
      score_keys<kVectors, 4>(args, t, query, score, highest);
      t += 4;
    } else {
      score_keys<kVectors, 1>(args, t, query, score, highest);
      t += 1;
    }
  }
}

// p of the header's formula for 16 queries and one key. 2^n is exact: poly(f) * 2^n never leaves the normal range.
__attribute__((always_inline)) inline __m512 probability(__m512 score, __m512 highest, __m512 exponent_scale) {
  const __m512 y =
      _mm512_max_ps(_mm512_mul_ps(_mm512_sub_ps(score, highest), exponent_scale), _mm512_set1_ps(kExpFloorF32));
  const __m512 n = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(y, n);
  __m512 p = _mm512_set1_ps(kExp2x255[kExpDegree]);
#pragma GCC unroll 4
  for (int i = kExpDegree - 1; i >= 0; --i) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2x255[i]));
  return _mm512_scalef_ps(p, n);
}

// Scores become probabilities; their sums become normalisers.
template <int kVectors>
void softmax(const AttentionF32Args& args, float* score, const __m512 (&highest)[kVectors],
             __m512 (&normaliser)[kVectors]) {
  const __m512 exponent_scale = _mm512_set1_ps(args.exponent_scale);
  __m512 total[kVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) total[v] = _mm512_setzero_ps();
  for (int32_t left = args.key_end - args.key_begin; left > 0; --left, score += kVectors * kLanes)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const __m512 p = probability(_mm512_load_ps(score + v * kLanes), highest[v], exponent_scale);
      total[v] = _mm512_add_ps(total[v], p);
      _mm512_store_ps(score + v * kLanes, p);
    }
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) normaliser[v] = _mm512_div_ps(_mm512_set1_ps(1.0f), total[v]);
}

// Where and how the context of 16 * kVectors queries is written.
template <int kVectors>
struct Output {
  __m512 normaliser[kVectors];
  __mmask16 mask[kVectors];
  uint8_t* out;  // or nullptr
  float* out_f32;
  __m512 inv_scale;
  __m512i zero_point;  // s16
};

// Four channels of 16 queries.
template <int kVectors>
__attribute__((always_inline)) inline void store(const Output<kVectors>& output, const __m512 (&y)[kBlock],
                                                 int32_t channel, int v) {
  if (output.out == nullptr) {
    float* const to = output.out_f32 + channel * kTile + v * kLanes;
#pragma GCC unroll 4
    for (int i = 0; i < kBlock; ++i)
      _mm512_mask_storeu_epi32(to + i * kTile, output.mask[v], _mm512_castps_si512(y[i]));
    return;
  }
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i q[kBlock];
#pragma GCC unroll 4
  for (int i = 0; i < kBlock; ++i) q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(y[i], output.inv_scale));
  const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), output.zero_point);
  const __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), output.zero_point);
  const __m512i words = _mm512_shuffle_epi8(_mm512_packus_epi16(low, high), _mm512_broadcast_i32x4(order));
  _mm512_mask_storeu_epi32(output.out + channel * kTile + v * kLanes * kBlock, output.mask[v], words);
}

// kRows channels, a multiple of 4, of 16 * kVectors queries.
template <int kVectors, int kRows>
__attribute__((always_inline)) inline void combine_values(const AttentionF32Args& args, const float* probability,
                                                          int32_t channel, const Output<kVectors>& output) {
  __m512 acc[kRows][kVectors];
  clear(acc);
  for (int32_t t = args.key_begin; t < args.key_end;) {
    const int32_t tile_end = (t / kTile + 1) * kTile;
    const int32_t end = args.key_end < tile_end ? args.key_end : tile_end;
    const float* value = args.value + t / kTile * args.key_stride + channel * kTile + t % kTile;
    add_products<kTile, 1, kVectors * kLanes>(acc, value, probability, end - t);
    probability += (end - t) * kVectors * kLanes;
    t = end;
  }
#pragma GCC unroll 2
  for (int r = 0; r < kRows; r += kBlock)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      __m512 y[kBlock];
#pragma GCC unroll 4
      for (int i = 0; i < kBlock; ++i) y[i] = _mm512_mul_ps(acc[r + i][v], output.normaliser[v]);
      store(output, y, channel + r, v);
    }
}

// Queries `begin` .. `end` - 1 of the 16 * kVectors lanes from token `first` on.
template <int kVectors>
void attend(const AttentionF32Args& args, int32_t first, int32_t begin, int32_t end) {
  const int64_t tile = first / kTile, lane = first % kTile;
  auto* const score = reinterpret_cast<float*>(args.scratch);
  Output<kVectors> output;
  __m512 highest[kVectors];
  score_all<kVectors>(args, args.query + tile * args.query_stride + lane, score, highest);
  softmax<kVectors>(args, score, highest, output.normaliser);

  output.inv_scale = _mm512_set1_ps(args.inv_scale);
  output.zero_point = _mm512_set1_epi16(static_cast<int16_t>(args.zero_point));
  output.out = args.out == nullptr ? nullptr : args.out + tile * args.out_stride + lane * kBlock;
  output.out_f32 = args.out != nullptr ? nullptr : args.out_f32 + tile * args.out_stride + lane;
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    uint32_t mask = 0xffff;
    const int32_t token = first + v * kLanes;
    if (token < begin) mask &= begin - token < kLanes ? 0xffffu << (begin - token) : 0;
    if (token + kLanes > end) mask &= token < end ? 0xffffu >> (token + kLanes - end) : 0;
    output.mask[v] = static_cast<__mmask16>(mask);
  }
  int32_t c = 0;
  for (; c + 8 <= args.head_dim; c += 8) combine_values<kVectors, 8>(args, score, c, output);
  if (c < args.head_dim) combine_values<kVectors, 4>(args, score, c, output);
}

}  // namespace

void attention_f32_avx512(const AttentionF32Args& given) {
  const AttentionF32Args args = given;  // a copy: no store can alias it
  for (int32_t begin = args.query_begin; begin < args.query_end;) {
    const int32_t tile = begin / kTile * kTile, half = tile + kLanes;
    const int32_t end = tile + kTile < args.query_end ? tile + kTile : args.query_end;
    if (end <= half)
      attend<1>(args, tile, begin, end);
    else if (begin >= half)
      attend<1>(args, half, begin, end);
    else
      attend<2>(args, tile, begin, end);
    begin = end;
  }
}

}  // namespace secateur
