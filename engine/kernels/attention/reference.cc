#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/attention/attention.h"
#include "kernels/reference_math.h"

namespace secateur {

// Least maximum relative error on [-1/2, 1/2], rounded to float32.
const float kExp2x255[kExpDegree + 1] = {254.999817f, 176.746063f, 61.2631035f, 14.2590551f, 2.44036317f};

namespace {

template <class T>
int32_t channel(const T* base, int64_t stride, int32_t token, int32_t d) {
  return base[token / kTile * stride + (static_cast<ptrdiff_t>(d / kBlock) * kTile + token % kTile) * kBlock +
              d % kBlock];
}

// 255 * 2^y for y in [kExpFloor, 0], rounded to an integer.
int32_t probability(float y) {
  const float n = std::nearbyint(y), f = y - n;
  float p = kExp2x255[kExpDegree];
  for (int32_t i = kExpDegree - 1; i >= 0; --i) p = std::fma(p, f, kExp2x255[i]);
  int32_t bits;
  std::memcpy(&bits, &p, sizeof(bits));
  bits += static_cast<int32_t>(n) * (1 << 23);
  std::memcpy(&p, &bits, sizeof(p));
  return reference::convert(p);
}

}  // namespace

void attention_reference(const AttentionArgs& args) {
  const int32_t keys = args.key_end - args.key_begin;
  auto* score = reinterpret_cast<int32_t*>(args.scratch);
  for (int32_t t = args.query_begin; t < args.query_end; ++t) {
    int32_t highest = INT32_MIN;
    for (int32_t j = 0; j < keys; ++j) {
      int32_t sum = 0;
      for (int32_t d = 0; d < args.head_dim; ++d)
        sum += (channel(args.query, args.query_stride, t, d) - args.query_zero_point) *
               channel(args.key, args.key_stride, args.key_begin + j, d);
      score[j] = sum;
      highest = std::max(highest, sum);
    }
    int32_t total = 0;
    for (int32_t j = 0; j < keys; ++j) {
      score[j] = probability(std::max(static_cast<float>(score[j] - highest) * args.exponent_scale, kExpFloor));
      total += score[j];
    }
    const float normalise = args.value_scale / static_cast<float>(total);
    for (int32_t c = 0; c < args.head_dim; ++c) {
      int32_t sum = 0;
      for (int32_t j = 0; j < keys; ++j) sum += score[j] * args.value[c * args.value_stride + args.key_begin + j];
      const float y = static_cast<float>(sum) * normalise;
      if (args.out == nullptr)
        args.out_f32[t / kTile * args.out_stride + static_cast<ptrdiff_t>(c) * kTile + t % kTile] = y;
      else
        args.out[t / kTile * args.out_stride + (static_cast<ptrdiff_t>(c / kBlock) * kTile + t % kTile) * kBlock +
                 c % kBlock] = reference::quantize_u8(y, args.inv_scale, args.zero_point);
    }
  }
}

}  // namespace secateur
