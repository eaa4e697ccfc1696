#include <cstdint>

#include "base/avx512.h"
#include "kernels/epilogue/epilogue.h"

namespace secateur {
namespace {

enum class Sums { kS32, kRows, kF32 };
enum class Form { kU8, kS8, kValue, kGelu, kRelu, kAdd, kF32, kGeluF32, kReluF32 };

struct Constants {
  __m512 inv_scale;
  __m512i zero_point;  // s16
  __m512 gelu[kGeluDegree];
};

__attribute__((always_inline)) inline __m512 gelu(__m512 y, const Constants& c) {
  // The second operand of max and min is what a NaN leaves, as in the reference.
  const __m512 a = _mm512_min_ps(_mm512_set1_ps(kGeluClamp), _mm512_abs_ps(y));
  __m512 p = c.gelu[kGeluDegree - 1];
#pragma GCC unroll 9
  for (int i = kGeluDegree - 2; i >= 0; --i) p = _mm512_fmadd_ps(p, a, c.gelu[i]);
  return _mm512_add_ps(_mm512_max_ps(_mm512_setzero_ps(), y), _mm512_mul_ps(p, a));
}

// Four rows of 16 tokens, s16 pairs of rows in each lane, to 16 tokens of four channels.
__attribute__((always_inline)) inline __m512i interleave(__m512i bytes) {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(order));
}

// y of 16 tokens of one row, before the activation.
template <Sums kSums>
__attribute__((always_inline)) inline __m512 linear(const EpilogueArgs& args, int32_t row, int32_t token) {
  const __m512 bias = _mm512_set1_ps(args.bias[args.row_begin + row]);
  if (kSums == Sums::kF32) return _mm512_add_ps(_mm512_load_ps(args.acc_f32 + row * kTile + token), bias);
  const __m512i acc = _mm512_load_si512(args.acc + row * kTile + token);
  const __m512 scale = _mm512_set1_ps(args.scale[args.row_begin + row]);
  if (kSums == Sums::kRows) {
    const __m512i sum = _mm512_add_epi32(acc, _mm512_set1_epi32(args.start[args.row_begin + row]));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(_mm512_load_ps(args.row_scale + token), scale), bias);
  }
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), scale, bias);
}

template <Sums kSums, Form kForm>
__attribute__((always_inline)) inline void write_four_rows(const EpilogueArgs& args, const Constants& c, int32_t row,
                                                           int32_t token) {
  constexpr bool kToFloat = kForm == Form::kF32 || kForm == Form::kGeluF32 || kForm == Form::kReluF32;
  const int32_t n = args.row_begin + row;
  __m512i q[kBlock];
#pragma GCC unroll 4
  for (int i = 0; i < kBlock; ++i) {
    __m512 y = linear<kSums>(args, row + i, token);
    if (kForm == Form::kAdd) {
      float* h = args.residual + static_cast<int64_t>(n + i) * kTile + token;
      _mm512_store_ps(h, _mm512_add_ps(_mm512_load_ps(h), y));
      continue;
    }
    if (kForm == Form::kGelu || kForm == Form::kGeluF32) y = gelu(y, c);
    if (kForm == Form::kRelu || kForm == Form::kReluF32) y = _mm512_max_ps(_mm512_setzero_ps(), y);
    if (kToFloat) {
      _mm512_store_ps(args.out_f32 + static_cast<int64_t>(n + i) * kTile + token, y);
      continue;
    }
    q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(y, c.inv_scale));
    if (kForm == Form::kValue) {
      const __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_max_epi32(q[i], _mm512_set1_epi32(-127)));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(args.value + (n + i) * args.value_stride + token), bytes);
    }
  }
  if (kToFloat || kForm == Form::kAdd || kForm == Form::kValue) return;
  __m512i low = _mm512_packs_epi32(q[0], q[1]), high = _mm512_packs_epi32(q[2], q[3]);
  uint8_t* out = args.out + (static_cast<int64_t>(n) * kTile + token * kBlock);
  if (kForm == Form::kS8) {
    const __m512i bytes = _mm512_max_epi8(_mm512_packs_epi16(low, high), _mm512_set1_epi8(-127));
    _mm512_store_si512(out, interleave(bytes));
  } else {
    low = _mm512_adds_epi16(low, c.zero_point);
    high = _mm512_adds_epi16(high, c.zero_point);
    _mm512_store_si512(out, interleave(_mm512_packus_epi16(low, high)));
  }
}

template <Sums kSums, Form kForm>
void write_rows(const EpilogueArgs& given) {
  const EpilogueArgs args = given;  // a copy: no store can alias it
  Constants c;
  c.inv_scale = _mm512_set1_ps(args.inv_scale);
  c.zero_point = _mm512_set1_epi16(static_cast<int16_t>(args.zero_point));
  if (kForm == Form::kGelu || kForm == Form::kGeluF32)
#pragma GCC unroll 9
    for (int i = 0; i < kGeluDegree; ++i) c.gelu[i] = _mm512_set1_ps(args.gelu[i]);
  for (int32_t row = 0; row < args.rows; row += kBlock) {
    write_four_rows<kSums, kForm>(args, c, row, 0);
    if (args.tokens > 16) write_four_rows<kSums, kForm>(args, c, row, 16);
  }
}

template <Sums kSums>
constexpr EpilogueForms kForms = {
    write_rows<kSums, Form::kU8>,   write_rows<kSums, Form::kS8>,      write_rows<kSums, Form::kValue>,
    write_rows<kSums, Form::kGelu>, write_rows<kSums, Form::kRelu>,    write_rows<kSums, Form::kAdd>,
    write_rows<kSums, Form::kF32>,  write_rows<kSums, Form::kGeluF32>, write_rows<kSums, Form::kReluF32>};

}  // namespace

const EpilogueForms epilogue_avx512_s32 = kForms<Sums::kS32>;
const EpilogueForms epilogue_avx512_rows = kForms<Sums::kRows>;
const EpilogueForms epilogue_avx512_f32 = kForms<Sums::kF32>;

}  // namespace secateur
