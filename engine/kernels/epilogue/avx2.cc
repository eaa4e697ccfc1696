// Four rows x eight tokens a step: two packssdw and a packuswb leave [4 rows][4 tokens] in each half of a register,
// so that one shuffle inside the halves gives [8 tokens][4 channels]; nothing crosses the halves.
#include <immintrin.h>

#include <cstdint>

#include "kernels/epilogue/epilogue.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 8;
constexpr int32_t kRows = 4;

// Activations run over kCount vectors step by step: chains side by side hide the latency of the operations.
struct Identity {
  explicit Identity(const EpilogueArgs&) {}
  template <int32_t kCount>
  void operator()(__m256 (&)[kCount]) const {}
};

struct Relu {
  explicit Relu(const EpilogueArgs&) {}
  template <int32_t kCount>
  void operator()(__m256 (&y)[kCount]) const {
    for (__m256& v : y) v = _mm256_max_ps(v, _mm256_setzero_ps());
  }
};

struct Gelu {
  explicit Gelu(const EpilogueArgs& args) : c(args.gelu) {}
  template <int32_t kCount>
  void operator()(__m256 (&y)[kCount]) const {
    __m256 a[kCount], p[kCount];
    for (int32_t i = 0; i < kCount; ++i) {
      a[i] = _mm256_min_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), y[i]), _mm256_set1_ps(kGeluClamp));
      y[i] = _mm256_max_ps(y[i], _mm256_setzero_ps());
    }
    for (__m256& v : p) v = _mm256_broadcast_ss(c + kGeluDegree - 1);
    for (int32_t d = kGeluDegree - 2; d >= 0; --d) {
      const __m256 coefficient = _mm256_broadcast_ss(c + d);
      for (int32_t i = 0; i < kCount; ++i) p[i] = _mm256_fmadd_ps(p[i], a[i], coefficient);
    }
    for (int32_t i = 0; i < kCount; ++i) y[i] = _mm256_add_ps(y[i], _mm256_mul_ps(p[i], a[i]));
  }
  const float* c;
};

inline __m256 linear(const int32_t* acc, __m256 scale, __m256 bias) {
  return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(acc))), scale, bias);
}

// Calls store(r, t, low, high) for each four rows and eight tokens: `low` holds rows r, r + 1 and `high` the two after
// as int16, in each half [2 rows][4 tokens]. A step is four rows of 8 * kVectors tokens.
template <class Activation, int32_t kVectors, class Store>
inline void for_each_step(const EpilogueArgs& args, Store store) {
  const Activation activation(args);
  const __m256 inv_scale = _mm256_set1_ps(args.inv_scale);
  const float *const scales = args.scale + args.row_begin, *const biases = args.bias + args.row_begin;
  const int32_t* const acc = args.acc;
  const int32_t rows = args.rows, tokens = args.tokens;
  for (int32_t r = 0; r < rows; r += kRows)
    for (int32_t t = 0; t < tokens; t += kVectors * kLanes) {
      __m256 y[kVectors * kRows];
      __m256i q[kVectors * kRows];
      for (int32_t v = 0; v < kVectors; ++v)
        for (int32_t i = 0; i < kRows; ++i)
          y[v * kRows + i] = linear(acc + (r + i) * kTile + t + v * kLanes, _mm256_broadcast_ss(scales + r + i),
                                    _mm256_broadcast_ss(biases + r + i));
      activation(y);
      for (int32_t i = 0; i < kVectors * kRows; ++i) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(y[i], inv_scale));
      for (int32_t v = 0; v < kVectors; ++v)
        store(r, t + v * kLanes, _mm256_packs_epi32(q[v * kRows], q[v * kRows + 1]),
              _mm256_packs_epi32(q[v * kRows + 2], q[v * kRows + 3]));
    }
}

template <class Activation, class Store>
inline void for_each_step(const EpilogueArgs& args, Store store) {
  return args.tokens > kLanes ? for_each_step<Activation, 2>(args, store) : for_each_step<Activation, 1>(args, store);
}

inline __m256i to_words(__m256i rows) {
  const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                         0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm256_shuffle_epi8(rows, order);
}

inline __m256i saturate_s8(__m256i low, __m256i high) {
  return _mm256_max_epi8(_mm256_packs_epi16(low, high), _mm256_set1_epi8(-127));
}

inline void store_words(const EpilogueArgs& args, int32_t r, int32_t t, __m256i words) {
  uint8_t* out = args.out + (static_cast<int64_t>(args.row_begin + r) * kTile + t * kBlock);
  _mm256_store_si256(reinterpret_cast<__m256i*>(out), words);
}

template <class Activation>
inline void write_u8(const EpilogueArgs& args) {
  const __m256i zero_point = _mm256_set1_epi16(static_cast<int16_t>(args.zero_point));
  for_each_step<Activation>(args, [&](int32_t r, int32_t t, __m256i low, __m256i high) {
    low = _mm256_adds_epi16(low, zero_point);
    high = _mm256_adds_epi16(high, zero_point);
    store_words(args, r, t, to_words(_mm256_packus_epi16(low, high)));
  });
}

}  // namespace

void epilogue_avx2_u8(const EpilogueArgs& args) { write_u8<Identity>(args); }
void epilogue_avx2_gelu(const EpilogueArgs& args) { write_u8<Gelu>(args); }
void epilogue_avx2_relu(const EpilogueArgs& args) { write_u8<Relu>(args); }

void epilogue_avx2_s8(const EpilogueArgs& args) {
  for_each_step<Identity>(args, [&](int32_t r, int32_t t, __m256i low, __m256i high) {
    store_words(args, r, t, to_words(saturate_s8(low, high)));
  });
}

void epilogue_avx2_value(const EpilogueArgs& args) {
  for_each_step<Identity>(args, [&](int32_t r, int32_t t, __m256i low, __m256i high) {
    const __m256i rows = saturate_s8(low, high);  // in each half [4 rows][4 tokens]
    const __m128i first = _mm256_castsi256_si128(rows), second = _mm256_extracti128_si256(rows, 1);
    const __m128i rows01 = _mm_unpacklo_epi32(first, second), rows23 = _mm_unpackhi_epi32(first, second);
    int8_t* out = args.value + (args.row_begin + r) * args.value_stride + t;
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), rows01);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + args.value_stride), _mm_unpackhi_epi64(rows01, rows01));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + 2 * args.value_stride), rows23);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + 3 * args.value_stride), _mm_unpackhi_epi64(rows23, rows23));
  });
}

void epilogue_avx2_add(const EpilogueArgs& args) {
  for (int32_t r = 0; r < args.rows; ++r) {
    const int32_t n = args.row_begin + r;
    const __m256 scale = _mm256_set1_ps(args.scale[n]), bias = _mm256_set1_ps(args.bias[n]);
    for (int32_t t = 0; t < args.tokens; t += kLanes) {
      float* h = args.residual + static_cast<int64_t>(n) * kTile + t;
      _mm256_store_ps(h, _mm256_add_ps(_mm256_load_ps(h), linear(args.acc + r * kTile + t, scale, bias)));
    }
  }
}

}  // namespace secateur
