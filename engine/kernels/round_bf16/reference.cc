#include <bit>
#include <cmath>
#include <limits>

#include "kernels/round_bf16/round_bf16.h"

namespace secateur {
namespace {

float round_to_bf16(float x) {
  if (std::isnan(x)) return std::numeric_limits<float>::quiet_NaN();
  if (std::fabs(x) < kLeastActivation) return 0.0f;
  const auto bits = std::bit_cast<uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
}

}  // namespace

void round_bf16_reference(const RoundBf16Args& args) {
  auto* const out = static_cast<float*>(args.out);
  for (int32_t k = 0; k < args.cols; ++k)
    for (int32_t t = 0; t < args.tokens; ++t) out[k * kTile + t] = round_to_bf16(args.x[k * kTile + t]);
}

}  // namespace secateur
