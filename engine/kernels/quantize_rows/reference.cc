#include <cmath>
#include <limits>

#include "kernels/quantize_rows/quantize_rows.h"
#include "kernels/reference_math.h"

namespace secateur {

void quantize_rows_reference(const QuantizeRowsArgs& args) {
  for (int32_t t = 0; t < args.tokens; ++t) {
    float largest = 0.0f;
    for (int32_t k = 0; k < args.cols; ++k) {
      const float size = std::fabs(args.x[k * kTile + t]);
      largest = size > largest ? size : largest;
    }
    float scale = largest / 127.0f;
    if (scale < std::numeric_limits<float>::min()) scale = 1.0f;
    args.scale[t] = scale;
    const float inverse = 1.0f / scale;
    for (int32_t k = 0; k < args.cols; ++k) {
      const int32_t col = args.order == nullptr ? k : args.order[k];
      const int8_t q = reference::quantize_s8(args.x[col * kTile + t], inverse);
      args.out[(k / kBlock * kTile + t) * kBlock + k % kBlock] = static_cast<uint8_t>(q + kRowsZeroPoint);
    }
  }
}

}  // namespace secateur
