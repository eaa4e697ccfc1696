// 32 queries at a time, everything vertical: a lane is a query, a word of four channels or keys is broadcast.
//
// Both products are spmm_u8s8's with keys and values for weights (see packed_avx2.h there): two words are added in
// int16 where their values rule out an overflow, which a call finds out once for all its queries; elsewhere the
// operands of vpmaddubsw are swapped. Zen 3 takes 3.3 cycles a word and 32 queries for the first, 4.5 for the second,
// 5.2 for vpmaddwd on operands widened to int16.
#include <immintrin.h>

#include <cstdint>

#include "kernels/attention/attention.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 8;
constexpr int32_t kWordBytes = kTile * kBlock;  // of activations, from one word of channels to the next
constexpr int32_t kSegment = 32;                // keys whose values are checked, and multiplied, in one way

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
inline __m256i broadcast(const int8_t* word) { return _mm256_broadcastd_epi32(_mm_loadu_si32(word)); }

// acc += the pair sums of `halves`. The assembly ties accumulator and sum: g++ 12 regroups the additions of an unrolled
// loop otherwise, and spills.
inline void add_halves(__m256i& acc, __m256i halves) {
  const __m256i sums = _mm256_madd_epi16(halves, _mm256_set1_epi16(1));
  asm("vpaddd %1, %0, %0" : "+x"(acc) : "x"(sums));
}

// The sums of |w| and of w in each half of one or several words w. Positive and negative values sum to at most 128
// each, so that their products with u8 fit int16, if |sum| + magnitude <= 256.
struct Words {
  explicit Words(__m256i w) {
    const __m256i ones = _mm256_set1_epi8(1);
    magnitudes = _mm256_maddubs_epi16(_mm256_abs_epi8(w), ones);
    sums = _mm256_maddubs_epi16(ones, w);
  }
  Words& operator+=(const Words& other) {
    magnitudes = _mm256_add_epi16(magnitudes, other.magnitudes);
    sums = _mm256_add_epi16(sums, other.sums);
    return *this;
  }
  // All ones in the halves that could overflow.
  __m256i overflows() const {
    return _mm256_cmpgt_epi16(_mm256_add_epi16(magnitudes, _mm256_abs_epi16(sums)), _mm256_set1_epi16(256));
  }
  // What swapped operands leave out: the sum of 128 w for w >= 0 and 127 w else.
  __m256i swap_constant() const {
    const __m256i twice = _mm256_add_epi32(_mm256_madd_epi16(sums, _mm256_set1_epi16(255)),
                                           _mm256_madd_epi16(magnitudes, _mm256_set1_epi16(1)));
    return _mm256_srai_epi32(twice, 1);
  }
  __m256i magnitudes, sums;
};

// acc[v] += x * w for two words; those of x are kWordBytes apart, those of w `stride` bytes.
template <int32_t kVectors>
inline void add_pair(__m256i (&acc)[kVectors], const uint8_t* x, const int8_t* w, int64_t stride) {
  const __m256i w0 = broadcast(w), w1 = broadcast(w + stride);
  for (int32_t v = 0; v < kVectors; ++v) {
    const __m256i sum = _mm256_add_epi16(_mm256_maddubs_epi16(load(x + 32 * v), w0),
                                         _mm256_maddubs_epi16(load(x + kWordBytes + 32 * v), w1));
    add_halves(acc[v], sum);
  }
}

template <int32_t kVectors>
inline void add_pairs(__m256i (&acc)[kVectors], const uint8_t* x, const int8_t* w, int64_t stride, int32_t pairs) {
  for (; pairs >= 4; pairs -= 4, x += 8 * kWordBytes, w += 8 * stride) {
    add_pair(acc, x, w, stride);
    add_pair(acc, x + 2 * kWordBytes, w + 2 * stride, stride);
    add_pair(acc, x + 4 * kWordBytes, w + 4 * stride, stride);
    add_pair(acc, x + 6 * kWordBytes, w + 6 * stride, stride);
  }
  for (; pairs != 0; --pairs, x += 2 * kWordBytes, w += 2 * stride) add_pair(acc, x, w, stride);
}

// The same for `words` words with swapped operands, less the constant.
template <int32_t kVectors>
inline void add_swapped(__m256i (&acc)[kVectors], const uint8_t* x, const int8_t* w, int64_t stride, int32_t words) {
  for (; words != 0; --words, x += kWordBytes, w += stride) {
    const __m256i word = broadcast(w), magnitudes = _mm256_abs_epi8(word);
    const __m256i flip = _mm256_xor_si256(_mm256_cmpgt_epi8(_mm256_setzero_si256(), word), _mm256_set1_epi8(-128));
    for (int32_t v = 0; v < kVectors; ++v) {
      const __m256i sum = _mm256_maddubs_epi16(magnitudes, _mm256_xor_si256(flip, load(x + 32 * v)));
      add_halves(acc[v], sum);
    }
  }
}

struct Key {
  const int8_t* words;
  int32_t start;  // what a score starts from
  int32_t row;    // of the scores
};

// What a call prepares for all its queries, and room for one step of queries, carved out of the scratch.
struct Work {
  explicit Work(const AttentionArgs& args)
      : keys(args.key_end - args.key_begin), segments((keys + kSegment - 1) / kSegment) {
    uint8_t* p = args.scratch;
    const auto take = [&p](int64_t bytes) {
      uint8_t* const taken = p;
      p += (bytes + 63) / 64 * 64;
      return taken;
    };
    const int64_t padded = segments * kSegment;
    probability = take(padded / kBlock * kWordBytes);
    score = reinterpret_cast<int32_t*>(take(padded * kTile * 4));
    key = reinterpret_cast<Key*>(take(padded * sizeof(Key)));
    value_start = reinterpret_cast<int32_t*>(take(args.head_dim * 4));
    value_swapped = take(static_cast<int64_t>(segments) * args.head_dim);
    context = reinterpret_cast<int32_t*>(take(kBlock * kTile * 4));
  }
  int32_t keys, segments;
  uint8_t* probability;    // [segments * 8][32][4]: four keys a word, as channels in an activation tile
  int32_t* score;          // [keys][32]
  Key* key;                // [keys]: first those that are multiplied in pairs of words
  int32_t paired = 0;      // how many
  int32_t* value_start;    // [head_dim]
  uint8_t* value_swapped;  // [head_dim][segments]
  int32_t* context;        // [4][32]
};

inline const int8_t* key_words(const AttentionArgs& args, int32_t token) {
  return args.key + token / kTile * args.key_stride + token % kTile * kBlock;
}

// Scores start from -zero_point * the sum of the key; a key is swapped as a whole.
void prepare_keys(const AttentionArgs& args, Work& work) {
  const int32_t words = args.head_dim / kBlock;
  const __m256i zero_point = _mm256_set1_epi32(args.query_zero_point);
  const __m256i ones = _mm256_set1_epi16(1);
  int32_t swapped = 0;
  for (int32_t t = args.key_begin / kLanes * kLanes; t < args.key_end; t += kLanes) {
    const int8_t* k = key_words(args, t);
    __m256i sum = _mm256_setzero_si256(), constant = sum, overflows = sum;
    int32_t word = 0;
    for (; word + 1 < words; word += 2) {
      Words pair(load(k + word * kWordBytes));
      pair += Words(load(k + (word + 1) * kWordBytes));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pair.sums, ones));
      constant = _mm256_add_epi32(constant, pair.swap_constant());
      overflows = _mm256_or_si256(overflows, pair.overflows());
    }
    // All of a key that overflows somewhere is swapped; an odd last word always is.
    const __m256i whole =
        _mm256_xor_si256(_mm256_cmpeq_epi32(overflows, _mm256_setzero_si256()), _mm256_set1_epi32(-1));
    constant = _mm256_and_si256(constant, whole);
    if (word < words) {
      const Words last(load(k + word * kWordBytes));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(last.sums, ones));
      constant = _mm256_add_epi32(constant, last.swap_constant());
    }
    alignas(32) int32_t start[kLanes];
    store(start, _mm256_sub_epi32(constant, _mm256_mullo_epi32(sum, zero_point)));
    const int32_t bits = _mm256_movemask_ps(_mm256_castsi256_ps(whole));
    for (int32_t i = 0; i < kLanes; ++i) {
      const int32_t row = t + i - args.key_begin;
      if (row < 0 || row >= work.keys) continue;
      const bool swap = bits >> i & 1;
      work.key[swap ? work.keys - ++swapped : work.paired++] = {k + i * kBlock, start[i], row};
    }
  }
}

// Values are swapped or not in segments of a channel.
void prepare_values(const AttentionArgs& args, const Work& work) {
  for (int32_t c = 0; c < args.head_dim; ++c) {
    const int8_t* value = args.value + c * args.value_stride + args.key_begin;
    __m256i constant = _mm256_setzero_si256();
    for (int32_t s = 0; s < work.segments; ++s) {
      const Words words(load(value + s * kSegment));
      Words pairs = words;
      pairs.magnitudes = _mm256_add_epi16(pairs.magnitudes, _mm256_shuffle_epi32(pairs.magnitudes, 0xb1));
      pairs.sums = _mm256_add_epi16(pairs.sums, _mm256_shuffle_epi32(pairs.sums, 0xb1));
      const bool swapped = _mm256_movemask_epi8(pairs.overflows()) != 0;
      if (swapped) constant = _mm256_add_epi32(constant, words.swap_constant());
      work.value_swapped[c * work.segments + s] = swapped;
    }
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(constant), _mm256_extracti128_si256(constant, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    work.value_start[c] = _mm_cvtsi128_si32(sum);
  }
}

// Writes the scores and leaves the largest of each query in `highest`.
template <int32_t kVectors>
void score_keys(const AttentionArgs& args, const Work& work, const uint8_t* query, __m256i (&highest)[kVectors]) {
  const int32_t words = args.head_dim / kBlock;
  int32_t* const score = work.score;
  __m256i most[kVectors];
  for (int32_t v = 0; v < kVectors; ++v) most[v] = _mm256_set1_epi32(INT32_MIN);
  const auto finish = [&](const Key& key, const __m256i(&acc)[kVectors]) {
    for (int32_t v = 0; v < kVectors; ++v) {
      most[v] = _mm256_max_epi32(most[v], acc[v]);
      store(score + key.row * kTile + v * kLanes, acc[v]);
    }
  };
  const Key* key = work.key;
  for (const Key* const end = key + work.paired; key != end; ++key) {
    __m256i acc[kVectors];
    for (int32_t v = 0; v < kVectors; ++v) acc[v] = _mm256_set1_epi32(key->start);
    add_pairs(acc, query, key->words, kWordBytes, words / 2);
    const int32_t last = (words - 1) * kWordBytes;
    if (words % 2 != 0) add_swapped(acc, query + last, key->words + last, kWordBytes, 1);
    finish(*key, acc);
  }
  for (const Key* const end = work.key + work.keys; key != end; ++key) {
    __m256i acc[kVectors];
    for (int32_t v = 0; v < kVectors; ++v) acc[v] = _mm256_set1_epi32(key->start);
    add_swapped(acc, query, key->words, kWordBytes, words);
    finish(*key, acc);
  }
  for (int32_t v = 0; v < kVectors; ++v) highest[v] = most[v];
}

// Probabilities of kCount keys. Step by step for all of them: several chains side by side hide the latency.
struct Exponential {
  explicit Exponential(float exponent_scale) : scale(_mm256_set1_ps(exponent_scale)) {
    for (int32_t i = 0; i <= kExpDegree; ++i) c[i] = _mm256_set1_ps(kExp2x255[i]);
  }
  template <int32_t kCount>
  void operator()(const int32_t* score, __m256i highest, __m256i (&p)[kCount]) const {
    // 1.5 * 2^23 rounds y to an integer, half to even, in the low bits of the sum.
    const __m256 shift = _mm256_set1_ps(12582912.0f), floor = _mm256_set1_ps(kExpFloor);
    __m256 y[kCount], rounded[kCount], q[kCount];
    for (int32_t i = 0; i < kCount; ++i) y[i] = _mm256_cvtepi32_ps(_mm256_sub_epi32(load(score + i * kTile), highest));
    for (int32_t i = 0; i < kCount; ++i) y[i] = _mm256_max_ps(_mm256_mul_ps(y[i], scale), floor);
    for (int32_t i = 0; i < kCount; ++i) rounded[i] = _mm256_add_ps(y[i], shift);
    for (int32_t i = 0; i < kCount; ++i) y[i] = _mm256_sub_ps(y[i], _mm256_sub_ps(rounded[i], shift));
    for (int32_t i = 0; i < kCount; ++i) q[i] = _mm256_fmadd_ps(c[kExpDegree], y[i], c[kExpDegree - 1]);
    for (int32_t d = kExpDegree - 2; d >= 0; --d)
      for (int32_t i = 0; i < kCount; ++i) q[i] = _mm256_fmadd_ps(q[i], y[i], c[d]);
    for (int32_t i = 0; i < kCount; ++i) {
      const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(rounded[i]), 23);
      p[i] = _mm256_cvtps_epi32(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(q[i]), exponent)));
    }
  }
  __m256 scale, c[kExpDegree + 1];
};

// The probabilities of eight queries; returns value_scale / their sum.
__m256 softmax(const AttentionArgs& args, const Work& work, int32_t lane, __m256i highest) {
  const Exponential exponential(args.exponent_scale);
  const int32_t* score = work.score + lane;
  uint8_t* out = work.probability + lane * kBlock;
  __m256i sum = _mm256_setzero_si256();
  for (int32_t n = work.keys / kBlock; n != 0; --n, score += kBlock * kTile, out += kWordBytes) {
    __m256i p[kBlock];
    exponential(score, highest, p);
    sum = _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_add_epi32(p[0], p[1]), _mm256_add_epi32(p[2], p[3])));
    const __m256i low = _mm256_or_si256(p[0], _mm256_slli_epi32(p[1], 8));
    const __m256i high = _mm256_or_si256(p[2], _mm256_slli_epi32(p[3], 8));
    store(out, _mm256_or_si256(low, _mm256_slli_epi32(high, 16)));
  }
  uint8_t* const end = work.probability + lane * kBlock + work.segments * (kSegment / kBlock) * kWordBytes;
  if (work.keys % kBlock != 0) {
    __m256i word = _mm256_setzero_si256();
    for (int32_t i = work.keys % kBlock - 1; i >= 0; --i) {
      __m256i p[1];
      exponential(score + i * kTile, highest, p);
      sum = _mm256_add_epi32(sum, p[0]);
      word = _mm256_or_si256(_mm256_slli_epi32(word, 8), p[0]);
    }
    store(out, word);
    out += kWordBytes;
  }
  for (; out < end; out += kWordBytes) store(out, _mm256_setzero_si256());
  return _mm256_div_ps(_mm256_set1_ps(args.value_scale), _mm256_cvtepi32_ps(sum));
}

template <int32_t kVectors>
void combine_values(const AttentionArgs& args, const Work& work, const __m256 (&normaliser)[kVectors],
                    const __m256i (&live)[kVectors], uint8_t* out, float* out_f32) {
  constexpr int32_t kWords = kSegment / kBlock;
  const __m256 inv_scale = _mm256_set1_ps(args.inv_scale);
  const __m256i zero_point = _mm256_set1_epi16(static_cast<int16_t>(args.zero_point));
  const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                         0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const int32_t segments = work.segments;
  int32_t* const context = work.context;
  const uint8_t* swapped = work.value_swapped;
  for (int32_t c = 0; c < args.head_dim; c += kBlock) {
    for (int32_t i = 0; i < kBlock; ++i) {
      const int8_t* value = args.value + (c + i) * args.value_stride + args.key_begin;
      const uint8_t* p = work.probability;
      __m256i acc[kVectors];
      for (int32_t v = 0; v < kVectors; ++v) acc[v] = _mm256_set1_epi32(work.value_start[c + i]);
      for (const uint8_t* const end = swapped + segments; swapped != end; ++swapped) {
        if (*swapped)
          add_swapped(acc, p, value, kBlock, kWords);
        else
          add_pairs(acc, p, value, kBlock, kWords / 2);
        p += kWords * kWordBytes;
        value += kSegment;
      }
      for (int32_t v = 0; v < kVectors; ++v) store(context + i * kTile + v * kLanes, acc[v]);
    }
    for (int32_t v = 0; v < kVectors; ++v) {
      __m256 y[kBlock];
      __m256i q[kBlock];
      for (int32_t i = 0; i < kBlock; ++i)
        y[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(load(context + i * kTile + v * kLanes)), normaliser[v]);
      if (out == nullptr) {
        for (int32_t i = 0; i < kBlock; ++i) _mm256_maskstore_ps(out_f32 + (c + i) * kTile + v * kLanes, live[v], y[i]);
        continue;
      }
      for (int32_t i = 0; i < kBlock; ++i) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(y[i], inv_scale));
      const __m256i low = _mm256_adds_epi16(_mm256_packs_epi32(q[0], q[1]), zero_point);
      const __m256i high = _mm256_adds_epi16(_mm256_packs_epi32(q[2], q[3]), zero_point);
      const __m256i words = _mm256_shuffle_epi8(_mm256_packus_epi16(low, high), order);
      _mm256_maskstore_epi32(reinterpret_cast<int32_t*>(out + c * kTile + v * kLanes * kBlock), live[v], words);
    }
  }
}

// The queries from `begin` to `end` that lie in the kVectors aligned vectors of one tile that start at token `first`.
template <int32_t kVectors>
void attend(const AttentionArgs& args, const Work& work, int32_t first) {
  const int64_t tile = first / kTile, lane = first % kTile * kBlock;
  __m256i highest[kVectors], live[kVectors];
  __m256 normaliser[kVectors];
  score_keys(args, work, args.query + tile * args.query_stride + lane, highest);
  for (int32_t v = 0; v < kVectors; ++v) {
    normaliser[v] = softmax(args, work, v * kLanes, highest[v]);
    const __m256i token =
        _mm256_add_epi32(_mm256_set1_epi32(first + v * kLanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    live[v] = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(args.query_begin), token),
                                  _mm256_cmpgt_epi32(_mm256_set1_epi32(args.query_end), token));
  }
  uint8_t* const out = args.out == nullptr ? nullptr : args.out + tile * args.out_stride + lane;
  float* const out_f32 = args.out != nullptr ? nullptr : args.out_f32 + tile * args.out_stride + first % kTile;
  combine_values(args, work, normaliser, live, out, out_f32);
}

}  // namespace

void attention_avx2(const AttentionArgs& args) {
  Work work(args);
  prepare_keys(args, work);
  prepare_values(args, work);
  for (int32_t t = args.query_begin / kLanes * kLanes; t < args.query_end;) {
    const int32_t tile_end = (t / kTile + 1) * kTile;
    const int32_t end = args.query_end < tile_end ? args.query_end : tile_end;
    switch ((end - t + kLanes - 1) / kLanes) {
      case 1:
        attend<1>(args, work, t);
        break;
      case 2:
        attend<2>(args, work, t);
        break;
      case 3:
        attend<3>(args, work, t);
        break;
      default:
        attend<4>(args, work, t);
    }
    t = end;
  }
}

}  // namespace secateur
