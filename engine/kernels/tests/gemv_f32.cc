// gemv_f32: equal to the reference bit for bit; the reference near the sum in double.
#include "kernels/gemv_f32/gemv_f32.h"

#include <cmath>
#include <iterator>

#include "kernels/tests/families.h"

namespace secateur::tests {
namespace {

#define KERNEL(isa, name) {#name, isa, name},
constexpr GemvKernel kKernels[] = {
#include "kernels/gemv_f32/kernels.inc"
};
#undef KERNEL

const GemvKernel& reference() { return *(std::end(kKernels) - 1); }

void check_size(const GemvKernel& kernel, int32_t k, int32_t n_padded, float magnitude, Check& check) {
  Random random(static_cast<uint32_t>(k * 4096 + n_padded));
  std::vector<float> x(static_cast<size_t>(k));
  AlignedBuffer<float> w(static_cast<size_t>(k) * n_padded), bias(static_cast<size_t>(n_padded));
  AlignedBuffer<float> want(static_cast<size_t>(n_padded) + kGemvLanes), got(want.size());
  for (float& v : x) v = magnitude * random.normal();
  for (size_t i = 0; i < w.size(); ++i) w[i] = random.normal();
  for (size_t i = 0; i < bias.size(); ++i) bias[i] = magnitude * random.normal();
  for (size_t i = 0; i < got.size(); ++i) want[i] = got[i] = NAN;
  reference().run({x.data(), w.data(), bias.data(), want.data(), k, n_padded});
  kernel.run({x.data(), w.data(), bias.data(), got.data(), k, n_padded});
  for (int32_t n = 0; n < n_padded; ++n) {
    EXPECT(check, std::memcmp(&got[n], &want[n], sizeof(float)) == 0, "K %d, N %d: y[%d] is %.9g, not %.9g", k,
           n_padded, n, got[n], want[n]);
    double sum = bias[n], size = std::fabs(bias[n]);
    for (int32_t i = 0; i < k; ++i) {
      const double product = static_cast<double>(x[i]) * w[static_cast<size_t>(i) * n_padded + n];
      sum += product;
      size += std::fabs(product);
    }
    EXPECT(check, std::fabs(got[n] - sum) <= 6e-8 * (k + 1) * size + 1.5e-45 * (k + 1),
           "K %d, N %d: y[%d] is %.9g, far from %.9g", k, n_padded, n, got[n], sum);
  }
  for (size_t i = static_cast<size_t>(n_padded); i < got.size(); ++i)
    EXPECT(check, std::isnan(got[i]), "K %d, N %d: writes past its outputs", k, n_padded);
}

}  // namespace

void test_gemv_f32(Report& report) {
  for (const GemvKernel& kernel : kKernels)
    report.kernel(kernel.name, kernel.isa, [&](Check& check) {
      for (const int32_t k : {1, 2, 3, 5, 8, 31, 32, 100, 384, 768})
        for (const int32_t n_padded : {16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 384, 784})
          check_size(kernel, k, n_padded, 1.0f, check);
      for (const float magnitude : {1e30f, 1e-38f}) check_size(kernel, 100, 144, magnitude, check);
    });
}

}  // namespace secateur::tests
