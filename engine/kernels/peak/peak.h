// peak: the multiplications that the products' instructions do on registers, and how many of them a second.
//
// run(rounds, x, w) returns the sum of `macs` * rounds products x * w: the proof that each of them was done. It is
// exact while 4 * rounds * x * w < 2^24. Nothing is loaded or stored on the way, so that no kernel can be faster.
#pragma once
#include <cstdint>

#include "base/isa.h"

namespace secateur {

enum class PeakType { kU8S8, kF32, kBf16 };
using enum PeakType;

struct PeakKernel {
  const char* name;
  Isa isa;
  PeakType type;
  int32_t macs;  // multiplications a round
  int64_t (*run)(int64_t rounds, int32_t x, int32_t w);
};

#define KERNEL(isa, name, type, macs) int64_t name(int64_t rounds, int32_t x, int32_t w);
#include "kernels/peak/kernels.inc"
#undef KERNEL

// The best kernel of that type that `isa` can run on this CPU; that of float32 where bfloat16 has none of its own.
const PeakKernel& select_peak(PeakType type, Isa isa);

// GMAC/s of one thread: the fastest of many short runs, some 25 ms in all.
double measure_peak(const PeakKernel& kernel);

}  // namespace secateur
