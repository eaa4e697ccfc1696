#include <cmath>
#include <cstring>

#include "kernels/attention_f32/attention_f32.h"
#include "kernels/reference_math.h"

namespace secateur {
namespace {

// Where channel d of a token stands.
ptrdiff_t index(int64_t stride, int32_t token, int32_t d) {
  return token / kTile * stride + static_cast<ptrdiff_t>(d) * kTile + token % kTile;
}

// 255 * 2^y for y in [kExpFloorF32, 0].
float probability(float y) {
  const float n = std::nearbyint(y), f = y - n;
  float p = kExp2x255[kExpDegree];
  for (int32_t i = kExpDegree - 1; i >= 0; --i) p = std::fma(p, f, kExp2x255[i]);
  int32_t bits;
  std::memcpy(&bits, &p, sizeof(bits));
  bits += static_cast<int32_t>(n) * (1 << 23);
  std::memcpy(&p, &bits, sizeof(p));
  return p;
}

}  // namespace

void attention_f32_reference(const AttentionF32Args& args) {
  const int32_t keys = args.key_end - args.key_begin;
  auto* score = reinterpret_cast<float*>(args.scratch);
  for (int32_t t = args.query_begin; t < args.query_end; ++t) {
    float highest = -INFINITY;
    for (int32_t j = 0; j < keys; ++j) {
      float sum = 0.0f;
      for (int32_t d = 0; d < args.head_dim; ++d)
        sum = std::fma(args.query[index(args.query_stride, t, d)],
                       args.key[index(args.key_stride, args.key_begin + j, d)], sum);
      score[j] = sum;
      highest = sum > highest ? sum : highest;
    }
    float total = 0.0f;
    for (int32_t j = 0; j < keys; ++j) {
      const float y = (score[j] - highest) * args.exponent_scale;
      score[j] = probability(y > kExpFloorF32 ? y : kExpFloorF32);
      total += score[j];
    }
    const float normalise = 1.0f / total;
    for (int32_t c = 0; c < args.head_dim; ++c) {
      float sum = 0.0f;
      for (int32_t j = 0; j < keys; ++j)
        sum = std::fma(args.value[index(args.key_stride, args.key_begin + j, c)], score[j], sum);
      const float y = sum * normalise;
      if (args.out == nullptr)
        args.out_f32[index(args.out_stride, t, c)] = y;
      else
        args.out[t / kTile * args.out_stride + (static_cast<ptrdiff_t>(c / kBlock) * kTile + t % kTile) * kBlock +
                 c % kBlock] = reference::quantize_u8(y, args.inv_scale, args.zero_point);
    }
  }
}

}  // namespace secateur
