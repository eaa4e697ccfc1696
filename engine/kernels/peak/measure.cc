#include <algorithm>
#include <chrono>

#include "kernels/peak/peak.h"

namespace secateur {

double measure_peak(const PeakKernel& kernel) {
  using Clock = std::chrono::steady_clock;
  constexpr double kRunSeconds = 5e-4, kSeconds = 0.025;
  volatile int64_t sum = 0;  // a result that is used: the run cannot be left out
  const auto seconds_of = [&](int64_t rounds) {
    const auto start = Clock::now();
    sum = kernel.run(rounds, 1, 1);
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  // Long enough for the clock, short enough to fall between two interruptions.
  int64_t rounds = 256;
  while (rounds < (int64_t{1} << 28) && seconds_of(rounds) < kRunSeconds) rounds *= 2;
  double best = 1e9;
  for (double total = 0; total < kSeconds;) {
    const double seconds = seconds_of(rounds);
    best = std::min(best, seconds);
    total += seconds;
  }
  return static_cast<double>(rounds) * kernel.macs / best * 1e-9;
}

}  // namespace secateur
