#include <algorithm>
#include <cmath>

#include "kernels/epilogue/epilogue.h"
#include "kernels/reference_math.h"

namespace secateur {

// Least maximum error on [0, 4] by reweighted least squares, rounded to float32.
const float kGeluErf[kGeluDegree] = {-0.498960525f, 0.38980031f,     0.0264797211f,  -0.100382261f,   0.0184321124f,
                                     0.0102993259f, -0.00509896781f, 0.00084931514f, -5.11845501e-05f};
const float kGeluTanh[kGeluDegree] = {-0.498959988f,  0.389501721f,    0.0283835679f,  -0.10510999f,    0.0232843384f,
                                      0.00783452764f, -0.00443541445f, 0.00075813086f, -4.61315321e-05f};

namespace {

float gelu_of(float y, const float* c) {
  const float a = std::min(std::fabs(y), kGeluClamp);
  float p = c[kGeluDegree - 1];
  for (int32_t i = kGeluDegree - 2; i >= 0; --i) p = std::fma(p, a, c[i]);
  return std::max(y, 0.0f) + p * a;
}

// Wraps around, as a vector's addition does; sums that can occur do not.
int32_t add(int32_t a, int32_t b) { return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b)); }

enum class Sums { kS32, kRows, kF32 };

// Calls write(n, t, y) for every row and live token.
template <Sums kSums, class Write>
void for_each(const EpilogueArgs& args, Write write) {
  for (int32_t r = 0; r < args.rows; ++r) {
    const int32_t n = args.row_begin + r;
    for (int32_t t = 0; t < args.tokens; ++t)
      if constexpr (kSums == Sums::kS32)
        write(n, t, std::fma(static_cast<float>(args.acc[r * kTile + t]), args.scale[n], args.bias[n]));
      else if constexpr (kSums == Sums::kRows)
        write(n, t,
              std::fma(static_cast<float>(add(args.acc[r * kTile + t], args.start[n])),
                       args.row_scale[t] * args.scale[n], args.bias[n]));
      else
        write(n, t, args.acc_f32[r * kTile + t] + args.bias[n]);
  }
}

uint8_t& channel(uint8_t* tile, int32_t n, int32_t t) {
  return tile[(static_cast<ptrdiff_t>(n / kBlock) * kTile + t) * kBlock + n % kBlock];
}

float& channel(float* tile, int32_t n, int32_t t) { return tile[static_cast<ptrdiff_t>(n) * kTile + t]; }

template <Sums kSums>
struct Forms {
  static void u8(const EpilogueArgs& args) {
    for_each<kSums>(args, [&](int32_t n, int32_t t, float y) {
      channel(args.out, n, t) = reference::quantize_u8(y, args.inv_scale, args.zero_point);
    });
  }
  static void s8(const EpilogueArgs& args) {
    for_each<kSums>(args, [&](int32_t n, int32_t t, float y) {
      channel(args.out, n, t) = static_cast<uint8_t>(reference::quantize_s8(y, args.inv_scale));
    });
  }
  static void value(const EpilogueArgs& args) {
    for_each<kSums>(args, [&](int32_t n, int32_t t, float y) {
      args.value[n * args.value_stride + t] = reference::quantize_s8(y, args.inv_scale);
    });
  }
  static void gelu(const EpilogueArgs& args) {
    for_each<kSums>(args, [&](int32_t n, int32_t t, float y) {
      channel(args.out, n, t) = reference::quantize_u8(gelu_of(y, args.gelu), args.inv_scale, args.zero_point);
    });
  }
  static void relu(const EpilogueArgs& args) {
    for_each<kSums>(args, [&](int32_t n, int32_t t, float y) {
      channel(args.out, n, t) = reference::quantize_u8(std::max(y, 0.0f), args.inv_scale, args.zero_point);
    });
  }
  static void add(const EpilogueArgs& args) {
    for_each<kSums>(args, [&](int32_t n, int32_t t, float y) { channel(args.residual, n, t) += y; });
  }
  static void f32(const EpilogueArgs& args) {
    for_each<kSums>(args, [&](int32_t n, int32_t t, float y) { channel(args.out_f32, n, t) = y; });
  }
  static void gelu_f32(const EpilogueArgs& args) {
    for_each<kSums>(args, [&](int32_t n, int32_t t, float y) { channel(args.out_f32, n, t) = gelu_of(y, args.gelu); });
  }
  static void relu_f32(const EpilogueArgs& args) {
    for_each<kSums>(args, [&](int32_t n, int32_t t, float y) { channel(args.out_f32, n, t) = std::max(y, 0.0f); });
  }
  static constexpr EpilogueForms kAll = {u8, s8, value, gelu, relu, add, f32, gelu_f32, relu_f32};
};

}  // namespace

const EpilogueForms epilogue_reference_s32 = Forms<Sums::kS32>::kAll;
const EpilogueForms epilogue_reference_rows = Forms<Sums::kRows>::kAll;
const EpilogueForms epilogue_reference_f32 = Forms<Sums::kF32>::kAll;

}  // namespace secateur
