// Scalar float steps that several reference kernels share: exactly what one vector lane does.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

namespace secateur::reference {

// cvtps2dq: half to even; what does not fit int32 (NaN too) becomes INT32_MIN.
inline int32_t convert(float v) {
  if (!(v >= -2147483648.0f && v < 2147483648.0f)) return std::numeric_limits<int32_t>::min();
  return static_cast<int32_t>(std::nearbyint(v));
}

inline int32_t saturate_s16(int32_t v) { return v < -32768 ? -32768 : v > 32767 ? 32767 : v; }

inline uint8_t quantize_u8(float y, float inv_scale, int32_t zero_point) {
  const int32_t q = saturate_s16(saturate_s16(convert(y * inv_scale)) + zero_point);
  return static_cast<uint8_t>(q < 0 ? 0 : q > 255 ? 255 : q);
}

inline int8_t quantize_s8(float y, float inv_scale) {
  const int32_t q = convert(y * inv_scale);
  return static_cast<int8_t>(q < -127 ? -127 : q > 127 ? 127 : q);
}

}  // namespace secateur::reference
