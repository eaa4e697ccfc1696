// peak: a kernel returns the sum of as many products as it says that it does.
#include "kernels/peak/peak.h"

#include "kernels/tests/families.h"

namespace secateur::tests {
namespace {

#define KERNEL(isa, name, type, macs) {#name, isa, type, macs, name},
constexpr PeakKernel kKernels[] = {
#include "kernels/peak/kernels.inc"
};
#undef KERNEL

}  // namespace

void test_peak(Report& report) {
  for (const PeakKernel& kernel : kKernels) {
    const auto test = [&](Check& check) {
      for (const int64_t rounds : {0, 1, 7, 1000})
        for (const auto& [x, w] : {std::pair{1, 1}, {3, 2}, {5, -7}}) {
          const int64_t sum = kernel.run(rounds, x, w);
          EXPECT(check, sum == rounds * kernel.macs * x * w, "%lld rounds of %d x %d: the sum is %lld",
                 static_cast<long long>(rounds), x, w, static_cast<long long>(sum));
        }
      const double rate = measure_peak(kernel);
      EXPECT(check, rate > 0.01 && rate < 1e5, "%g GMAC/s are not plausible", rate);
    };
    report.kernel(kernel.name, kernel.isa, test, kernel.type == kBf16 && !has_bf16() ? "avx512bf16" : nullptr);
  }
}

}  // namespace secateur::tests
