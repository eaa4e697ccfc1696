// The reference kernels' inner loop, as the compiler makes it.
#include "kernels/peak/peak.h"

namespace secateur {
namespace {

constexpr int32_t kLanes = 32;

// Keeps the compiler from knowing a value, so that it cannot multiply once for all rounds.
template <class T>
void forget(T& value) {
  asm volatile("" : "+r"(value) : : "memory");
}

}  // namespace

int64_t peak_u8s8_reference(int64_t rounds, int32_t x, int32_t w) {
  uint8_t tokens[kLanes * 4];
  int8_t weights[4];
  int32_t acc[kLanes] = {};
  for (uint8_t& token : tokens) token = static_cast<uint8_t>(x);
  for (int8_t& weight : weights) weight = static_cast<int8_t>(w);
  for (; rounds > 0; --rounds) {
    const uint8_t* read = tokens;
    forget(read);
    for (int32_t t = 0; t < kLanes; ++t)
      for (int32_t j = 0; j < 4; ++j) acc[t] += read[4 * t + j] * weights[j];
  }
  int64_t sum = 0;
  for (const int32_t lane : acc) sum += lane;
  return sum;
}

int64_t peak_f32_reference(int64_t rounds, int32_t x, int32_t w) {
  float tokens[2 * kLanes], acc[2 * kLanes] = {};
  for (float& token : tokens) token = static_cast<float>(x);
  const auto weight = static_cast<float>(w);
  for (; rounds > 0; --rounds) {
    const float* read = tokens;
    forget(read);
    for (int32_t t = 0; t < 2 * kLanes; ++t) acc[t] += read[t] * weight;
  }
  int64_t sum = 0;
  for (const float lane : acc) sum += static_cast<int64_t>(lane);
  return sum;
}

}  // namespace secateur
