// What the kernel benchmarks share: the sizes, the clock, which kernels are timed.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>

#include "base/isa.h"

namespace secateur::bench {

inline constexpr int32_t kTokens[] = {8, 32, 128};

// Seconds of the fastest of many calls.
template <class F>
double fastest(F call) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9, total = 0;
  for (int32_t round = 0; total < 0.15 || round < 5; ++round) {
    const auto start = Clock::now();
    call();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::min(best, seconds);
    total += seconds;
  }
  return best;
}

// Whether the kernel's name has `part` in it and this CPU runs it. The reference is not there to be fast: it is timed
// only when asked for.
inline bool is_wanted(const char* name, Isa isa, const std::string& part) {
  if (std::string(name).find(part) == std::string::npos) return false;
  return isa_includes(available_isas().front(), isa) && (isa != kReference || !part.empty());
}

void bench_products_f32(const std::string& part);  // spmm_f32 and gemm_f32

}  // namespace secateur::bench
