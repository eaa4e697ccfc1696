// Four rows x eight tokens a step: two packssdw and a packuswb leave [4 rows][4 tokens] in each half of a register,
// so that one shuffle inside the halves gives [8 tokens][4 channels]; nothing crosses the halves.
#include <immintrin.h>

#include <cstdint>

#include "kernels/epilogue/epilogue.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 8;
constexpr int32_t kRows = 4;

enum class Sums { kS32, kRows, kF32 };

// The second operand of max and min is what a NaN or two zeros leave, as in the reference.
inline __m256 positive(__m256 y) { return _mm256_max_ps(_mm256_setzero_ps(), y); }

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
    for (__m256& v : y) v = positive(v);
  }
};

struct Gelu {
  explicit Gelu(const EpilogueArgs& args) : c(args.gelu) {}
  template <int32_t kCount>
  void operator()(__m256 (&y)[kCount]) const {
    __m256 a[kCount], p[kCount];
    for (int32_t i = 0; i < kCount; ++i) {
      a[i] = _mm256_min_ps(_mm256_set1_ps(kGeluClamp), _mm256_andnot_ps(_mm256_set1_ps(-0.0f), y[i]));
      y[i] = positive(y[i]);
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

// What turns the sums of row r of the block into y, before the activation.
template <Sums kSums>
struct Row {
  Row(const EpilogueArgs& args, int32_t r)
      : acc(args.acc + r * kTile),
        acc_f32(args.acc_f32 + r * kTile),
        bias(_mm256_set1_ps(args.bias[args.row_begin + r])) {
    if (kSums != Sums::kF32) scale = _mm256_set1_ps(args.scale[args.row_begin + r]);
    if (kSums == Sums::kRows) {
      start = _mm256_set1_epi32(args.start[args.row_begin + r]);
      row_scale = args.row_scale;
    }
  }
  // y of eight tokens.
  __m256 operator()(int32_t t) const {
    if (kSums == Sums::kF32) return _mm256_add_ps(_mm256_load_ps(acc_f32 + t), bias);
    const __m256i sum = _mm256_load_si256(reinterpret_cast<const __m256i*>(acc + t));
    if (kSums == Sums::kRows)
      return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(sum, start)),
                             _mm256_mul_ps(_mm256_load_ps(row_scale + t), scale), bias);
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, bias);
  }
  const int32_t* acc;
  const float* acc_f32;
  const float* row_scale;
  __m256 scale, bias;
  __m256i start;
};

// Calls visit(r, t, y) for each four rows and 8 * kVectors tokens; y[v * kRows + i] is row r + i from token
// t + 8 * v on.
template <Sums kSums, class Activation, int32_t kVectors, class Visit>
inline void for_each_step(const EpilogueArgs& given, Visit visit) {
  const EpilogueArgs args = given;  // a copy: no store can alias it
  const Activation activation(args);
  for (int32_t r = 0; r < args.rows; r += kRows)
    for (int32_t t = 0; t < args.tokens; t += kVectors * kLanes) {
      __m256 y[kVectors * kRows];
      for (int32_t v = 0; v < kVectors; ++v)
        for (int32_t i = 0; i < kRows; ++i) y[v * kRows + i] = Row<kSums>(args, r + i)(t + v * kLanes);
      activation(y);
      visit(r, t, y);
    }
}

template <Sums kSums, class Activation, class Visit>
inline void for_each_step(const EpilogueArgs& args, Visit visit) {
  return args.tokens > kLanes ? for_each_step<kSums, Activation, 2>(args, visit)
                              : for_each_step<kSums, Activation, 1>(args, visit);
}

// Calls store(r, t, low, high) for each four rows and eight tokens: `low` holds rows r, r + 1 and `high` the two after
// as int16, in each half [2 rows][4 tokens].
template <Sums kSums, class Activation, class Store>
inline void for_each_quantized(const EpilogueArgs& args, Store store) {
  const __m256 inv_scale = _mm256_set1_ps(args.inv_scale);
  for_each_step<kSums, Activation>(args, [&]<size_t kCount>(int32_t r, int32_t t, const __m256(&y)[kCount]) {
    __m256i q[kCount];
    for (size_t i = 0; i < kCount; ++i) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(y[i], inv_scale));
    for (size_t i = 0; i < kCount; i += kRows, t += kLanes)
      store(r, t, _mm256_packs_epi32(q[i], q[i + 1]), _mm256_packs_epi32(q[i + 2], q[i + 3]));
  });
}

inline __m256i to_words(__m256i rows) {
  const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                         0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm256_shuffle_epi8(rows, order);
}

inline __m256i saturate_s8(__m256i low, __m256i high) {
  return _mm256_max_epi8(_mm256_packs_epi16(low, high), _mm256_set1_epi8(-127));
}

inline uint8_t* first_word(const EpilogueArgs& args) { return args.out + static_cast<int64_t>(args.row_begin) * kTile; }

inline void store_words(uint8_t* out, int32_t r, int32_t t, __m256i words) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(out + r * kTile + t * kBlock), words);
}

template <Sums kSums, class Activation>
void write_u8(const EpilogueArgs& args) {
  const __m256i zero_point = _mm256_set1_epi16(static_cast<int16_t>(args.zero_point));
  uint8_t* const out = first_word(args);
  for_each_quantized<kSums, Activation>(args, [=](int32_t r, int32_t t, __m256i low, __m256i high) {
    low = _mm256_adds_epi16(low, zero_point);
    high = _mm256_adds_epi16(high, zero_point);
    store_words(out, r, t, to_words(_mm256_packus_epi16(low, high)));
  });
}

template <Sums kSums>
void write_s8(const EpilogueArgs& args) {
  uint8_t* const out = first_word(args);
  for_each_quantized<kSums, Identity>(args, [=](int32_t r, int32_t t, __m256i low, __m256i high) {
    store_words(out, r, t, to_words(saturate_s8(low, high)));
  });
}

template <Sums kSums>
void write_value(const EpilogueArgs& args) {
  const int64_t stride = args.value_stride;
  int8_t* const out = args.value + args.row_begin * stride;
  for_each_quantized<kSums, Identity>(args, [=](int32_t r, int32_t t, __m256i low, __m256i high) {
    const __m256i rows = saturate_s8(low, high);  // in each half [4 rows][4 tokens]
    const __m128i first = _mm256_castsi256_si128(rows), second = _mm256_extracti128_si256(rows, 1);
    const __m128i rows01 = _mm_unpacklo_epi32(first, second), rows23 = _mm_unpackhi_epi32(first, second);
    int8_t* const to = out + r * stride + t;
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), rows01);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + stride), _mm_unpackhi_epi64(rows01, rows01));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 2 * stride), rows23);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 3 * stride), _mm_unpackhi_epi64(rows23, rows23));
  });
}

template <Sums kSums>
void add(const EpilogueArgs& args) {
  for (int32_t r = 0; r < args.rows; ++r) {
    const Row<kSums> row(args, r);
    float* const h = args.residual + static_cast<int64_t>(args.row_begin + r) * kTile;
    for (int32_t t = 0; t < args.tokens; t += kLanes)
      _mm256_store_ps(h + t, _mm256_add_ps(_mm256_load_ps(h + t), row(t)));
  }
}

template <Sums kSums, class Activation>
void write_f32(const EpilogueArgs& args) {
  float* const out = args.out_f32 + static_cast<int64_t>(args.row_begin) * kTile;
  for_each_step<kSums, Activation>(args, [&]<size_t kCount>(int32_t r, int32_t t, const __m256(&y)[kCount]) {
    for (size_t i = 0; i < kCount; ++i)
      _mm256_store_ps(out + (r + static_cast<int32_t>(i % kRows)) * kTile + t + i / kRows * kLanes, y[i]);
  });
}

template <Sums kSums>
constexpr EpilogueForms kForms = {write_u8<kSums, Identity>,  write_s8<kSums>,        write_value<kSums>,
                                  write_u8<kSums, Gelu>,      write_u8<kSums, Relu>,  add<kSums>,
                                  write_f32<kSums, Identity>, write_f32<kSums, Gelu>, write_f32<kSums, Relu>};

}  // namespace

const EpilogueForms epilogue_avx2_s32 = kForms<Sums::kS32>;
const EpilogueForms epilogue_avx2_rows = kForms<Sums::kRows>;
const EpilogueForms epilogue_avx2_f32 = kForms<Sums::kF32>;

}  // namespace secateur
