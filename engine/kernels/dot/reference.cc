#include <cmath>

#include "kernels/dot/dot.h"

namespace secateur {
namespace {

template <class T>
void multiply(const DotArgs& args, const T* w) {
  for (int32_t n = 0; n < args.rows; ++n)
    for (int32_t t = 0; t < args.tokens; ++t) {
      const float* x = args.x + static_cast<int64_t>(t) * args.k;
      const T* row = w + static_cast<int64_t>(n) * args.k;
      float s[kDotLanes] = {};
      for (int32_t first = 0; first < args.k; first += kDotLanes)
        for (int32_t i = 0; i < kDotLanes; ++i) {
          const bool there = first + i < args.k;
          s[i] = std::fma(there ? x[first + i] : 0.0f, there ? static_cast<float>(row[first + i]) : 0.0f, s[i]);
        }
      for (int32_t half = kDotLanes / 2; half > 0; half /= 2)
        for (int32_t i = 0; i < half; ++i) s[i] += s[i + half];
      args.y[t * args.token_stride + n * args.row_stride] = s[0];
    }
}

}  // namespace

void dot_reference(const DotArgs& args) {
  return args.w_s8 != nullptr ? multiply(args, args.w_s8) : multiply(args, args.w_f32);
}

}  // namespace secateur
