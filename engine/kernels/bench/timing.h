// What the kernel benchmarks share: the sizes, the clock, which kernels are timed.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
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

// Fits a kernel's ProductCost to what was timed, by least squares of the relative error.
class CostFit {
 public:
  // `seconds` for one tile of 32 tokens.
  void add(int32_t rows, size_t weights, double seconds) {
    const double r = rows / (seconds * 1e9), w = static_cast<double>(weights) / (seconds * 1e9);
    rr_ += r * r, rw_ += r * w, ww_ += w * w, r_ += r, w_ += w;
  }
  void print(const char* name) const {
    const double determinant = rr_ * ww_ - rw_ * rw_;
    double row = (r_ * ww_ - w_ * rw_) / determinant, weight = (w_ * rr_ - r_ * rw_) / determinant;
    if (!(row > 0)) row = 0, weight = w_ / ww_;
    std::printf("%s costs %.2f ns a row and %.4f ns a weight, for 32 tokens\n", name, row, weight);
  }

 private:
  double rr_ = 0, rw_ = 0, ww_ = 0, r_ = 0, w_ = 0;
};

void bench_products_f32(const std::string& part);  // spmm and gemm, f32 and bf16

}  // namespace secateur::bench
