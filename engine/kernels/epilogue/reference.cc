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

float gelu(float y, const float* c) {
  const float a = std::min(std::fabs(y), kGeluClamp);
  float p = c[kGeluDegree - 1];
  for (int32_t i = kGeluDegree - 2; i >= 0; --i) p = std::fma(p, a, c[i]);
  return std::max(y, 0.0f) + p * a;
}

// Calls write(n, t, y) for every row and live token.
template <class Write>
void for_each(const EpilogueArgs& args, Write write) {
  for (int32_t r = 0; r < args.rows; ++r) {
    const int32_t n = args.row_begin + r;
    for (int32_t t = 0; t < args.tokens; ++t)
      write(n, t, std::fma(static_cast<float>(args.acc[r * kTile + t]), args.scale[n], args.bias[n]));
  }
}

uint8_t& channel(uint8_t* tile, int32_t n, int32_t t) {
  return tile[(static_cast<ptrdiff_t>(n / kBlock) * kTile + t) * kBlock + n % kBlock];
}

}  // namespace

void epilogue_reference_u8(const EpilogueArgs& args) {
  for_each(args, [&](int32_t n, int32_t t, float y) {
    channel(args.out, n, t) = reference::quantize_u8(y, args.inv_scale, args.zero_point);
  });
}

void epilogue_reference_s8(const EpilogueArgs& args) {
  for_each(args, [&](int32_t n, int32_t t, float y) {
    channel(args.out, n, t) = static_cast<uint8_t>(reference::quantize_s8(y, args.inv_scale));
  });
}

void epilogue_reference_value(const EpilogueArgs& args) {
  for_each(args, [&](int32_t n, int32_t t, float y) {
    args.value[n * args.value_stride + t] = reference::quantize_s8(y, args.inv_scale);
  });
}

void epilogue_reference_gelu(const EpilogueArgs& args) {
  for_each(args, [&](int32_t n, int32_t t, float y) {
    channel(args.out, n, t) = reference::quantize_u8(gelu(y, args.gelu), args.inv_scale, args.zero_point);
  });
}

void epilogue_reference_relu(const EpilogueArgs& args) {
  for_each(args, [&](int32_t n, int32_t t, float y) {
    channel(args.out, n, t) = reference::quantize_u8(std::max(y, 0.0f), args.inv_scale, args.zero_point);
  });
}

void epilogue_reference_add(const EpilogueArgs& args) {
  for_each(args, [&](int32_t n, int32_t t, float y) { args.residual[static_cast<ptrdiff_t>(n) * kTile + t] += y; });
}

}  // namespace secateur
