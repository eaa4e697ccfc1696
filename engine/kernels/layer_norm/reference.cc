#include <cmath>

#include "kernels/layer_norm/layer_norm.h"
#include "kernels/reference_math.h"

namespace secateur {

void layer_norm_reference(const LayerNormArgs& args) {
  const float per_channel = 1.0f / static_cast<float>(args.channels);
  for (int32_t t = 0; t < args.tokens; ++t) {
    float* h = args.h + t;
    float sum = 0.0f;
    for (int32_t n = 0; n < args.channels; ++n) sum += h[static_cast<ptrdiff_t>(n) * kTile];
    const float mean = sum * per_channel;
    float squares = 0.0f;
    for (int32_t n = 0; n < args.channels; ++n) {
      const float d = h[static_cast<ptrdiff_t>(n) * kTile] - mean;
      squares = std::fma(d, d, squares);
    }
    const float rstd = 1.0f / std::sqrt(squares * per_channel + args.eps);
    for (int32_t place = 0; place < args.channels; ++place) {
      const int32_t n = args.order == nullptr ? place : args.order[place];
      float& v = h[static_cast<ptrdiff_t>(n) * kTile];
      v = std::fma((v - mean) * rstd, args.gamma[n], args.beta[n]);
      if (args.out != nullptr)
        args.out[(static_cast<ptrdiff_t>(place / kBlock) * kTile + t) * kBlock + place % kBlock] =
            reference::quantize_u8(v, args.inv_scale, args.zero_point);
    }
  }
}

}  // namespace secateur
