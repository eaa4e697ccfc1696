// dot: equal to the reference bit for bit; the reference near the sum in double.
#include "kernels/dot/dot.h"

#include <cmath>
#include <iterator>

#include "kernels/tests/families.h"

namespace secateur::tests {
namespace {

#define KERNEL(isa, name) {#name, isa, name},
constexpr DotKernel kKernels[] = {
#include "kernels/dot/kernels.inc"
};
#undef KERNEL

const DotKernel& reference() { return *(std::end(kKernels) - 1); }

struct Case {
  int32_t k, rows, tokens;
  bool int8, rows_first;  // whether a token's outputs lie beside each other
  float magnitude;
};

void check_case(const DotKernel& kernel, const Case& given, Check& check) {
  const auto [k, rows, tokens, int8, rows_first, magnitude] = given;
  Random random(static_cast<uint32_t>(k * 4096 + rows * 64 + tokens));
  // Vectors that end where the data ends, and begin where floats may: AddressSanitizer sees what is read beyond.
  std::vector<float> x(static_cast<size_t>(tokens) * k), w(static_cast<size_t>(rows) * k + 1);
  std::vector<int8_t> w_s8(static_cast<size_t>(rows) * k);
  for (float& v : x) v = magnitude * random.normal();
  for (float& v : w) v = random.normal();
  for (int8_t& v : w_s8) v = static_cast<int8_t>(random.integer(-128, 127));
  const int32_t gap = 3;  // outputs lie apart: what is between them stays
  const int64_t token_stride = rows_first ? rows + gap : 1, row_stride = rows_first ? 1 : tokens + gap;
  const size_t size = static_cast<size_t>(rows_first ? tokens * token_stride : rows * row_stride);
  std::vector<float> want(size, -7.0f), got(size, -7.0f);
  DotArgs args{x.data(),
               int8 ? nullptr : w.data() + 1,
               int8 ? w_s8.data() : nullptr,
               k,
               rows,
               tokens,
               want.data(),
               token_stride,
               row_stride};
  reference().run(args);
  args.y = got.data();
  kernel.run(args);
  EXPECT(check, std::memcmp(got.data(), want.data(), size * sizeof(float)) == 0,
         "K %d, %d rows, %d tokens, int8 %d: differs from the reference", k, rows, tokens, int8);
  size_t left = size;
  for (int32_t t = 0; t < tokens; ++t)
    for (int32_t n = 0; n < rows; ++n) {
      double sum = 0, amount = 0;
      for (int32_t i = 0; i < k; ++i) {
        const size_t at = static_cast<size_t>(n) * k + i;
        const double weight = int8 ? w_s8[at] : w[at + 1];
        const double product = static_cast<double>(x[static_cast<size_t>(t) * k + i]) * weight;
        sum += product;
        amount += std::fabs(product);
      }
      float& y = want[static_cast<size_t>(t * token_stride + n * row_stride)];
      EXPECT(check, std::fabs(y - sum) <= 6e-8 * (k / kDotLanes + 6) * amount + 1.5e-45 * (k + 1),
             "K %d, %d rows, %d tokens, int8 %d: %.9g is far from %.9g", k, rows, tokens, int8, y, sum);
      y = -7.0f;
      --left;
    }
  for (const float v : want) left -= v != -7.0f;
  EXPECT(check, left == size - static_cast<size_t>(tokens) * rows, "K %d: writes between its outputs", k);
}

}  // namespace

void test_dot(Report& report) {
  for (const DotKernel& kernel : kKernels)
    report.kernel(kernel.name, kernel.isa, [&](Check& check) {
      for (const bool int8 : {false, true}) {
        for (const int32_t k : {1, 4, 15, 16, 17, 32, 60, 100, 384})
          for (const int32_t rows : {1, 2, 3, 5, 6, 7, 8, 13, 64})
            for (const int32_t tokens : {1, 2, 3, 4, 5, 8, 31, 32})
              check_case(kernel, {k, rows, tokens, int8, (rows + tokens) % 2 == 0, 1.0f}, check);
        for (const float magnitude : {1e30f, 1e-38f, 1e-44f})
          check_case(kernel, {100, 9, 7, int8, true, magnitude}, check);
      }
    });
}

}  // namespace secateur::tests
