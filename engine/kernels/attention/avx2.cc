// Sixteen queries at a time, everything vertical: a lane is a query, a 32-bit word of keys or values is broadcast.
//
// vpmaddubsw would saturate on full-range operands, so queries, keys and values are widened to int16 once a call and
// multiplied by vpmaddwd: as many products an instruction slot as vpmaddubsw + vpmaddwd. Channels go in the pairs
// (0, 2) and (1, 3) of a packed word, which masks and shifts give without a shuffle; probabilities of two keys share
// a word as p0 | p1 << 16.
#include <immintrin.h>

#include <cstdint>

#include "kernels/attention/attention.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 8;
constexpr int32_t kLead = 8;  // words before the first key that a vector store may overwrite

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

// acc += the pair sums of a * b in each lane. The assembly ties accumulator and result: g++ 12 gives them different
// registers otherwise, and with eight accumulators copies and spills in the loops.
inline void multiply_add(__m256i& acc, __m256i a, __m256i b) {
  const __m256i sums = _mm256_madd_epi16(a, b);
  asm("vpaddd %1, %0, %0" : "+x"(acc) : "x"(sums));
}

// What a call prepares for all its queries, and room for one step of queries, carved out of the scratch.
struct Work {
  explicit Work(const AttentionArgs& args) {
    keys = args.key_end - args.key_begin;
    stride = (keys + 63) / 64 * 64 + 64;
    auto* p = reinterpret_cast<int32_t*>(args.scratch);
    key = p + kLead;
    p += static_cast<int64_t>(args.head_dim) / 2 * stride;
    value = p;
    p += static_cast<int64_t>(args.head_dim) / 2 * stride;
    score = p;
    p += static_cast<int64_t>(stride) * 2 * kLanes;
    probability = p;
    p += static_cast<int64_t>(stride) * kLanes;
    query = p;
  }
  int32_t keys;
  int32_t stride;        // words between rows of keys; half of it between rows of values
  int32_t* key;          // [head_dim / 2][stride]: channels 4 i and 4 i + 2, then 4 i + 1 and 4 i + 3
  int32_t* value;        // [head_dim][stride / 2]: keys 2 j and 2 j + 1
  int32_t* score;        // [keys][16]
  int32_t* probability;  // [keys / 2][16]: keys 2 j and 2 j + 1
  int32_t* query;        // [head_dim / 2][16], pairs as in `key`
};

void widen_keys(const AttentionArgs& args, const Work& work) {
  for (int32_t d = 0; d < args.head_dim; d += kBlock) {
    int32_t* even = work.key + static_cast<int64_t>(d / 2) * work.stride;
    int32_t* odd = even + work.stride;
    for (int32_t t = args.key_begin / kLanes * kLanes; t < args.key_end; t += kLanes) {
      const __m256i k = load(args.key + t / kTile * args.key_stride + (d * kTile + t % kTile * kBlock));
      store(even + (t - args.key_begin), _mm256_srai_epi16(_mm256_slli_epi16(k, 8), 8));
      store(odd + (t - args.key_begin), _mm256_srai_epi16(k, 8));
    }
    // Scores are computed four keys at a time: the last key again, which changes no maximum.
    for (int32_t j = work.keys; j % 4 != 0; ++j) {
      even[j] = even[work.keys - 1];
      odd[j] = odd[work.keys - 1];
    }
  }
}

void widen_values(const AttentionArgs& args, const Work& work) {
  for (int32_t c = 0; c < args.head_dim; ++c) {
    const int8_t* from = args.value + c * args.value_stride + args.key_begin;
    auto* to = reinterpret_cast<int16_t*>(work.value + static_cast<int64_t>(c) * (work.stride / 2));
    for (int32_t j = 0; j < work.keys; j += 2 * kLanes)
      store(to + j, _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + j))));
  }
}

template <int32_t kVectors>
void widen_queries(const AttentionArgs& args, const Work& work, const uint8_t* query) {
  const __m256i low = _mm256_set1_epi16(0xff);
  const __m256i zero_point = _mm256_set1_epi16(static_cast<int16_t>(args.query_zero_point));
  for (int32_t d = 0; d < args.head_dim; d += kBlock)
    for (int32_t v = 0; v < kVectors; ++v) {
      const __m256i q = load(query + d * kTile + v * kLanes * kBlock);
      int32_t* to = work.query + (d / 2 * kVectors + v) * kLanes;
      store(to, _mm256_sub_epi16(_mm256_and_si256(q, low), zero_point));
      store(to + kVectors * kLanes, _mm256_sub_epi16(_mm256_srli_epi16(q, 8), zero_point));
    }
}

// Writes the scores and leaves the largest of each query in `highest`.
template <int32_t kVectors>
void score_keys(const AttentionArgs& args, const Work& work, __m256i (&highest)[kVectors]) {
  constexpr int32_t kKeys = 4;
  const int32_t pairs = args.head_dim / 2;
  const int64_t stride = work.stride;
  const int32_t* const query = work.query;
  for (int32_t v = 0; v < kVectors; ++v) highest[v] = _mm256_set1_epi32(INT32_MIN);
  int32_t* score = work.score;
  const int32_t* const key_end = work.key + work.keys;
  for (const int32_t* key = work.key; key < key_end; key += kKeys, score += kKeys * kVectors * kLanes) {
    __m256i acc[kKeys][kVectors];
    for (int32_t i = 0; i < kKeys; ++i)
      for (int32_t v = 0; v < kVectors; ++v) acc[i][v] = _mm256_setzero_si256();
    const int32_t *k = key, *q = query;
    for (int32_t n = pairs; n != 0; --n, k += stride, q += kVectors * kLanes)
      for (int32_t i = 0; i < kKeys; ++i)
        for (int32_t v = 0; v < kVectors; ++v) multiply_add(acc[i][v], load(q + v * kLanes), _mm256_set1_epi32(k[i]));
    for (int32_t i = 0; i < kKeys; ++i)
      for (int32_t v = 0; v < kVectors; ++v) {
        highest[v] = _mm256_max_epi32(highest[v], acc[i][v]);
        store(score + (i * kVectors + v) * kLanes, acc[i][v]);
      }
  }
}

inline __m256i exponential(__m256i score, __m256i highest, __m256 scale, const __m256 (&c)[kExpDegree + 1]) {
  const __m256 a = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(score, highest)), scale);
  const __m256 y = _mm256_max_ps(a, _mm256_set1_ps(kExpFloor));
  // 1.5 * 2^23 rounds y to an integer, half to even, in the low bits of the sum.
  const __m256 shift = _mm256_set1_ps(12582912.0f);
  const __m256 rounded = _mm256_add_ps(y, shift);
  const __m256 f = _mm256_sub_ps(y, _mm256_sub_ps(rounded, shift));
  __m256 p = c[kExpDegree];
  for (int32_t i = kExpDegree - 1; i >= 0; --i) p = _mm256_fmadd_ps(p, f, c[i]);
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(rounded), 23);
  return _mm256_cvtps_epi32(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent)));
}

// Writes the probabilities and leaves value_scale / their sum in `normaliser`.
template <int32_t kVectors>
void softmax(const AttentionArgs& args, const Work& work, const __m256i (&highest)[kVectors],
             __m256 (&normaliser)[kVectors]) {
  __m256 c[kExpDegree + 1];
  for (int32_t i = 0; i <= kExpDegree; ++i) c[i] = _mm256_set1_ps(kExp2x255[i]);
  const __m256 scale = _mm256_set1_ps(args.exponent_scale);
  __m256i sum[kVectors];
  for (int32_t v = 0; v < kVectors; ++v) sum[v] = _mm256_setzero_si256();
  const int32_t* score = work.score;
  int32_t* out = work.probability;
  for (int32_t n = work.keys / 2; n != 0; --n, score += 2 * kVectors * kLanes, out += kVectors * kLanes)
    for (int32_t v = 0; v < kVectors; ++v) {
      const __m256i p0 = exponential(load(score + v * kLanes), highest[v], scale, c);
      const __m256i p1 = exponential(load(score + (kVectors + v) * kLanes), highest[v], scale, c);
      sum[v] = _mm256_add_epi32(sum[v], _mm256_add_epi32(p0, p1));
      store(out + v * kLanes, _mm256_or_si256(p0, _mm256_slli_epi32(p1, 16)));
    }
  if (work.keys % 2 != 0)
    for (int32_t v = 0; v < kVectors; ++v) {
      const __m256i p = exponential(load(score + v * kLanes), highest[v], scale, c);
      sum[v] = _mm256_add_epi32(sum[v], p);
      store(out + v * kLanes, p);
    }
  for (int32_t v = 0; v < kVectors; ++v)
    normaliser[v] = _mm256_div_ps(_mm256_set1_ps(args.value_scale), _mm256_cvtepi32_ps(sum[v]));
}

template <int32_t kVectors>
void combine_values(const AttentionArgs& args, const Work& work, const __m256 (&normaliser)[kVectors],
                    const __m256i (&live)[kVectors], uint8_t* out) {
  const __m256 inv_scale = _mm256_set1_ps(args.inv_scale);
  const __m256i zero_point = _mm256_set1_epi16(static_cast<int16_t>(args.zero_point));
  const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                         0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const int64_t row = work.stride / 2;
  for (int32_t c = 0; c < args.head_dim; c += kBlock) {
    __m256i acc[kBlock][kVectors];
    for (int32_t i = 0; i < kBlock; ++i)
      for (int32_t v = 0; v < kVectors; ++v) acc[i][v] = _mm256_setzero_si256();
    const int32_t *value = work.value + static_cast<int64_t>(c) * row, *p = work.probability;
    for (int32_t n = (work.keys + 1) / 2; n != 0; --n, ++value, p += kVectors * kLanes)
      for (int32_t i = 0; i < kBlock; ++i)
        for (int32_t v = 0; v < kVectors; ++v)
          multiply_add(acc[i][v], load(p + v * kLanes), _mm256_set1_epi32(value[i * row]));
    for (int32_t v = 0; v < kVectors; ++v) {
      __m256i q[kBlock];
      for (int32_t i = 0; i < kBlock; ++i) {
        const __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[i][v]), normaliser[v]);
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(y, inv_scale));
      }
      const __m256i low = _mm256_adds_epi16(_mm256_packs_epi32(q[0], q[1]), zero_point);
      const __m256i high = _mm256_adds_epi16(_mm256_packs_epi32(q[2], q[3]), zero_point);
      const __m256i words = _mm256_shuffle_epi8(_mm256_packus_epi16(low, high), order);
      _mm256_maskstore_epi32(reinterpret_cast<int32_t*>(out + c * kTile + v * kLanes * kBlock), live[v], words);
    }
  }
}

// The queries `begin` .. `end` - 1, which lie in the kVectors aligned vectors that start at token `first`.
template <int32_t kVectors>
void attend(const AttentionArgs& args, const Work& work, int32_t first, int32_t begin, int32_t end) {
  const int64_t tile = first / kTile, lane = first % kTile * kBlock;
  __m256i highest[kVectors], live[kVectors];
  __m256 normaliser[kVectors];
  for (int32_t v = 0; v < kVectors; ++v) {
    const __m256i token =
        _mm256_add_epi32(_mm256_set1_epi32(first + v * kLanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    live[v] = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(begin), token),
                                  _mm256_cmpgt_epi32(_mm256_set1_epi32(end), token));
  }
  widen_queries<kVectors>(args, work, args.query + tile * args.query_stride + lane);
  score_keys(args, work, highest);
  softmax(args, work, highest, normaliser);
  combine_values(args, work, normaliser, live, args.out + tile * args.out_stride + lane);
}

}  // namespace

void attention_avx2(const AttentionArgs& args) {
  const Work work(args);
  widen_keys(args, work);
  widen_values(args, work);
  for (int32_t t = args.query_begin / kLanes * kLanes; t < args.query_end;) {
    if (t % kTile + 2 * kLanes <= kTile && t + kLanes < args.query_end) {
      attend<2>(args, work, t, args.query_begin, args.query_end);
      t += 2 * kLanes;
    } else {
      attend<1>(args, work, t, args.query_begin, args.query_end);
      t += kLanes;
    }
  }
}

}  // namespace secateur
