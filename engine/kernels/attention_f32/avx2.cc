// 16 queries at a time, everything vertical: a lane is a query, a key's or value's channel is broadcast. Scores of
// 16 queries and 512 keys fill the first-level cache.
#include <immintrin.h>

#include <cstdint>

#include "kernels/attention_f32/attention_f32.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 8;

// acc[r][v] += w[r] * x[v] for `count` steps, at least one. From row to row w moves by kRowStride, from step to step
// by kStep; x moves by kStride.
template <int32_t kRowStride, int32_t kStep, int32_t kStride, int32_t kRows, int32_t kVectors>
inline void add_products(__m256 (&acc)[kRows][kVectors], const float* w, const float* x, int32_t count) {
  do {
    __m256 lanes[kVectors];
    for (int32_t v = 0; v < kVectors; ++v) {
      lanes[v] = _mm256_load_ps(x + v * kLanes);
      asm("" : "+x"(lanes[v]));  // else g++ 12 loads it again for each row, and loads are what the loop waits for
    }
    for (int32_t r = 0; r < kRows; ++r) {
      const __m256 weight = _mm256_broadcast_ss(w + r * kRowStride);
      for (int32_t v = 0; v < kVectors; ++v) acc[r][v] = _mm256_fmadd_ps(weight, lanes[v], acc[r][v]);
    }
    w += kStep;
    x += kStride;
  } while (--count != 0);
}

template <int32_t kRows, int32_t kVectors>
inline void clear(__m256 (&acc)[kRows][kVectors]) {
  for (int32_t r = 0; r < kRows; ++r)
    for (int32_t v = 0; v < kVectors; ++v) acc[r][v] = _mm256_setzero_ps();
}

// kVectors aligned vectors of queries of one tile, from token `first` on. Scores and probabilities are
// [keys][kVectors * 8].
template <int32_t kVectors>
class Queries {
 public:
  Queries(const AttentionF32Args& args, int32_t first)
      : args_(args),
        keys_(args.key_end - args.key_begin),
        query_(args.query + first / kTile * args.query_stride + first % kTile),
        score_(reinterpret_cast<float*>(args.scratch)) {
    for (int32_t v = 0; v < kVectors; ++v) {
      const __m256i token =
          _mm256_add_epi32(_mm256_set1_epi32(first + v * kLanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
      live_[v] = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(args.query_begin), token),
                                     _mm256_cmpgt_epi32(_mm256_set1_epi32(args.query_end), token));
      highest_[v] = _mm256_set1_ps(-__builtin_inff());
      all_live_ = all_live_ && _mm256_movemask_ps(_mm256_castsi256_ps(live_[v])) == 0xff;
    }
    out_ = args.out == nullptr ? nullptr : args.out + first / kTile * args.out_stride + first % kTile * kBlock;
    out_f32_ = args.out != nullptr ? nullptr : args.out_f32 + first / kTile * args.out_stride + first % kTile;
  }

  void run() {
    for (int32_t t = args_.key_begin; t < args_.key_end;) {
      const int32_t tile_end = (t / kTile + 1) * kTile;
      const int32_t end = args_.key_end < tile_end ? args_.key_end : tile_end;
      for (; t + kManyRows <= end; t += kManyRows) score_keys<kManyRows>(t);
      for (; t + kBlock <= end; t += kBlock) score_keys<kBlock>(t);
      for (; t < end; ++t) score_keys<1>(t);
    }
    softmax();
    int32_t c = 0;
    for (; c + kManyRows <= args_.head_dim; c += kManyRows) combine_values<kManyRows>(c);
    for (; c < args_.head_dim; c += kBlock) combine_values<kBlock>(c);
  }

 private:
  static constexpr int32_t kStride = kVectors * kLanes;
  static constexpr int32_t kManyRows = 8 / kVectors;  // two multiply-adds a cycle, four cycles each: eight chains

  // Not inline, nor is combine_values: what stays in registers from call to call is taken from the sums.
  template <int32_t kRows>
  __attribute__((noinline)) void score_keys(int32_t token) {
    __m256 acc[kRows][kVectors];
    clear(acc);
    const float* key = args_.key + token / kTile * args_.key_stride + token % kTile;
    add_products<1, kTile, kTile>(acc, key, query_, args_.head_dim);
    float* to = score_ + (token - args_.key_begin) * kStride;
    for (int32_t r = 0; r < kRows; ++r)
      for (int32_t v = 0; v < kVectors; ++v) {
        highest_[v] = _mm256_max_ps(acc[r][v], highest_[v]);
        _mm256_store_ps(to + r * kStride + v * kLanes, acc[r][v]);
      }
  }

  // kKeys keys, their vectors side by side: chains hide each other's latency.
  template <int32_t kKeys>
  inline void exponentiate(float* score, __m256 (&total)[kVectors]) const {
    constexpr int32_t kCount = kKeys * kVectors;
    // 1.5 * 2^23 rounds y to an integer, half to even, in the low bits of the sum.
    const __m256 shift = _mm256_set1_ps(12582912.0f), scale = _mm256_set1_ps(args_.exponent_scale);
    __m256 y[kCount], rounded[kCount], p[kCount];
    for (int32_t i = 0; i < kCount; ++i)
      y[i] = _mm256_mul_ps(_mm256_sub_ps(_mm256_load_ps(score + i * kLanes), highest_[i % kVectors]), scale);
    for (int32_t i = 0; i < kCount; ++i) y[i] = _mm256_max_ps(y[i], _mm256_set1_ps(kExpFloorF32));
    for (int32_t i = 0; i < kCount; ++i) rounded[i] = _mm256_add_ps(y[i], shift);
    for (int32_t i = 0; i < kCount; ++i) y[i] = _mm256_sub_ps(y[i], _mm256_sub_ps(rounded[i], shift));
    for (int32_t i = 0; i < kCount; ++i) p[i] = _mm256_set1_ps(kExp2x255[kExpDegree]);
    for (int32_t d = kExpDegree - 1; d >= 0; --d)
      for (int32_t i = 0; i < kCount; ++i) p[i] = _mm256_fmadd_ps(p[i], y[i], _mm256_set1_ps(kExp2x255[d]));
    for (int32_t i = 0; i < kCount; ++i) {
      const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(rounded[i]), 23);
      p[i] = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p[i]), exponent));
      total[i % kVectors] = _mm256_add_ps(total[i % kVectors], p[i]);
      _mm256_store_ps(score + i * kLanes, p[i]);
    }
  }

  // Scores become probabilities, and their sums normalisers.
  void softmax() {
    constexpr int32_t kKeys = 4 / kVectors;
    __m256 total[kVectors];
    for (__m256& sum : total) sum = _mm256_setzero_ps();
    float* score = score_;
    int32_t left = keys_;
    for (; left >= kKeys; left -= kKeys, score += kKeys * kStride) exponentiate<kKeys>(score, total);
    for (; left > 0; --left, score += kStride) exponentiate<1>(score, total);
    for (int32_t v = 0; v < kVectors; ++v) normaliser_[v] = _mm256_div_ps(_mm256_set1_ps(1.0f), total[v]);
  }

  template <int32_t kRows>
  __attribute__((noinline)) void combine_values(int32_t channel) const {
    __m256 acc[kRows][kVectors];
    clear(acc);
    const float* p = score_;
    for (int32_t t = args_.key_begin; t < args_.key_end;) {
      const int32_t tile_end = (t / kTile + 1) * kTile;
      const int32_t end = args_.key_end < tile_end ? args_.key_end : tile_end;
      const float* value = args_.value + t / kTile * args_.key_stride + channel * kTile + t % kTile;
      add_products<kTile, 1, kStride>(acc, value, p, end - t);
      p += (end - t) * kStride;
      t = end;
    }
#pragma GCC unroll 2
    for (int32_t r = 0; r < kRows; r += kBlock)
#pragma GCC unroll 2
      for (int32_t v = 0; v < kVectors; ++v) {
        __m256 y[kBlock];
        for (int32_t i = 0; i < kBlock; ++i) y[i] = _mm256_mul_ps(acc[r + i][v], normaliser_[v]);
        if (out_ == nullptr)
          store_f32(y, channel + r, v);
        else
          store_u8(y, channel + r, v);
      }
  }

  void store_f32(const __m256 (&y)[kBlock], int32_t channel, int32_t v) const {
    float* const to = out_f32_ + channel * kTile + v * kLanes;
    for (int32_t i = 0; i < kBlock; ++i)
      if (all_live_)
        _mm256_store_ps(to + i * kTile, y[i]);
      else
        _mm256_maskstore_ps(to + i * kTile, live_[v], y[i]);
  }

  void store_u8(const __m256 (&y)[kBlock], int32_t channel, int32_t v) const {
    const __m256i zero_point = _mm256_set1_epi16(static_cast<int16_t>(args_.zero_point));
    const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                           0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m256i q[kBlock];
    for (int32_t i = 0; i < kBlock; ++i)
      q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(y[i], _mm256_set1_ps(args_.inv_scale)));
    const __m256i low = _mm256_adds_epi16(_mm256_packs_epi32(q[0], q[1]), zero_point);
    const __m256i high = _mm256_adds_epi16(_mm256_packs_epi32(q[2], q[3]), zero_point);
    const __m256i words = _mm256_shuffle_epi8(_mm256_packus_epi16(low, high), order);
    auto* const to = reinterpret_cast<int32_t*>(out_ + channel * kTile + v * kLanes * kBlock);
    _mm256_maskstore_epi32(to, live_[v], words);
  }

  const AttentionF32Args args_;  // a copy: no store can alias it
  const int32_t keys_;
  const float* const query_;
  float* const score_;
  uint8_t* out_;
  float* out_f32_;
  bool all_live_ = true;
  __m256i live_[kVectors];
  __m256 highest_[kVectors], normaliser_[kVectors];
};

}  // namespace

void attention_f32_avx2(const AttentionF32Args& args) {
  for (int32_t t = args.query_begin / kLanes * kLanes; t < args.query_end;) {
    const int32_t tile_end = (t / kTile + 1) * kTile;
    const int32_t end = args.query_end < tile_end ? args.query_end : tile_end;
    if (end - t > kLanes) {
      Queries<2>(args, t).run();
      t += 2 * kLanes;
    } else {
      Queries<1>(args, t).run();
      t += kLanes;
    }
  }
}

}  // namespace secateur
