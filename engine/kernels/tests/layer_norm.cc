// layer_norm: equal to the reference bit for bit; the reference near the formula in double.
#include "kernels/layer_norm/layer_norm.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <vector>

#include "kernels/tests/families.h"

namespace secateur::tests {
namespace {

#define KERNEL(isa, name) {#name, isa, name},
constexpr LayerNormKernel kKernels[] = {
#include "kernels/layer_norm/kernels.inc"
};
#undef KERNEL

const LayerNormKernel& reference() { return *(std::end(kKernels) - 1); }

enum class Range { kOrdinary, kHuge, kOverflow, kTiny, kDenormal, kConstant, kOffset, kOutlier };

float input(Range range, int32_t n, Random& random) {
  switch (range) {
    case Range::kHuge:
      return 1e15f * random.normal();
    case Range::kOverflow:  // squares do not fit float32: 1 / sqrt(inf) = 0
      return 1e25f * random.normal();
    case Range::kTiny:
      return 1e-7f * random.normal();
    case Range::kDenormal:
      return 1e-25f * random.normal();
    case Range::kConstant:
      return 3.7f;
    case Range::kOffset:
      return 1000.0f + random.normal();
    case Range::kOutlier:
      return n == 1 ? 500.0f : random.normal();
    case Range::kOrdinary:
      break;
  }
  return 2.0f * random.normal();
}

struct Problem {
  int32_t channels, tokens;
  Range range;
  AlignedBuffer<float> h;  // a guard channel group follows the tile
  AlignedBuffer<float> gamma, beta;
  AlignedBuffer<uint8_t> out;
  std::vector<uint16_t> order;
  LayerNormArgs args{};

  Problem(int32_t channels, int32_t tokens, Range range, bool quantized, bool ordered = false)
      : channels(channels),
        tokens(tokens),
        range(range),
        h(static_cast<size_t>(channels + kBlock) * kTile),
        gamma(static_cast<size_t>(channels)),
        beta(static_cast<size_t>(channels)),
        out(static_cast<size_t>(channels + kBlock) * kTile) {
    Random random(static_cast<uint32_t>(channels * 64 + tokens));
    for (size_t i = 0; i < h.size(); ++i) h[i] = input(range, static_cast<int32_t>(i) / kTile, random);
    for (size_t i = 0; i < gamma.size(); ++i) {
      gamma[i] = random.uniform(0.5f, 1.5f);
      beta[i] = 0.2f * random.normal();
    }
    random.fill(out, 0, 255);
    args.channels = channels;
    args.tokens = tokens;
    args.gamma = gamma.data();
    args.beta = beta.data();
    args.eps = tokens % 2 == 0 ? 1e-12f : 1e-5f;
    args.inv_scale = random.uniform(10.0f, 60.0f);
    args.zero_point = random.integer(0, 255);
    args.h = h.data();
    args.out = quantized ? out.data() : nullptr;
    order.resize(static_cast<size_t>(channels));
    std::iota(order.begin(), order.end(), static_cast<uint16_t>(0));
    if (!ordered) return;
    for (size_t i = order.size() - 1; i > 0; --i)
      std::swap(order[i], order[static_cast<size_t>(random.integer(0, static_cast<int32_t>(i)))]);
    args.order = order.data();
  }

  // Where the quantized form of place n of the order lies.
  size_t packed(int32_t n, int32_t t) const {
    return (static_cast<size_t>(n / kBlock) * kTile + t) * kBlock + n % kBlock;
  }
};

void compare(const LayerNormKernel& kernel, int32_t channels, int32_t tokens, Range range, bool quantized, bool ordered,
             Check& check) {
  Problem want(channels, tokens, range, quantized, ordered), got(channels, tokens, range, quantized, ordered);
  reference().run(want.args);
  kernel.run(got.args);
  for (int32_t n = 0; n < channels + kBlock; ++n)
    for (int32_t t = 0; t < kTile; ++t) {
      if (n < channels && t >= tokens) continue;
      const size_t i = static_cast<size_t>(n) * kTile + t, q = got.packed(n, t);
      EXPECT(check, std::memcmp(&got.h[i], &want.h[i], sizeof(float)) == 0,
             "%d channels, %d tokens, range %d: h[%d][%d] is %.9g, not %.9g", channels, tokens, static_cast<int>(range),
             n, t, got.h[i], want.h[i]);
      EXPECT(check, got.out[q] == want.out[q], "%d channels, %d tokens, range %d: out[%d][%d] is %d, not %d", channels,
             tokens, static_cast<int>(range), n, t, got.out[q], want.out[q]);
    }
}

// The formula in double: float32 sums of N terms in a row are off by about N * 2^-24 of their size at most.
void compare_plain(const LayerNormKernel& kernel, int32_t channels, Range range, bool ordered, Check& check) {
  Problem before(channels, kTile, range, true, ordered), got(channels, kTile, range, true, ordered);
  kernel.run(got.args);
  for (int32_t t = 0; t < kTile; ++t) {
    double sum = 0, squares = 0, largest = 0;
    const auto h = [&](int32_t n) { return static_cast<double>(before.h[static_cast<size_t>(n) * kTile + t]); };
    for (int32_t n = 0; n < channels; ++n) sum += h(n), largest = std::max(largest, std::fabs(h(n)));
    const double mean = sum / channels;
    for (int32_t n = 0; n < channels; ++n) squares += (h(n) - mean) * (h(n) - mean);
    const double rstd = 1.0 / std::sqrt(squares / channels + before.args.eps);
    const double slack = 3e-8 * channels * (1.0 + largest * rstd) + 1e-6 * (1.0 + largest * rstd);
    for (int32_t place = 0; place < channels; ++place) {
      const int32_t n = got.order[static_cast<size_t>(place)];
      const double want = (h(n) - mean) * rstd * before.gamma[n] + before.beta[n];
      const double v = got.h[static_cast<size_t>(n) * kTile + t];
      EXPECT(check, std::fabs(v - want) <= slack * (1.0 + std::fabs(want)),
             "%d channels, range %d: %.9g is far from %.9g", channels, static_cast<int>(range), v, want);
      const double q = std::clamp(v * before.args.inv_scale + before.args.zero_point, 0.0, 255.0);
      EXPECT(check, std::fabs(got.out[got.packed(place, t)] - q) <= 0.5001,
             "%d channels: %d is more than half from %.6f", channels, got.out[got.packed(place, t)], q);
    }
  }
}

}  // namespace

void test_layer_norm(Report& report) {
  for (const LayerNormKernel& kernel : kKernels)
    report.kernel(kernel.name, kernel.isa, [&](Check& check) {
      for (const int32_t channels : {4, 8, 12, 32, 100, 384, 768, 1024})
        for (const Range range : {Range::kOrdinary, Range::kHuge, Range::kOverflow, Range::kTiny, Range::kDenormal,
                                  Range::kConstant, Range::kOffset, Range::kOutlier})
          for (int32_t tokens = 1; tokens <= kTile; tokens += channels <= 32 ? 1 : 5)
            for (const bool ordered : {false, true})
              compare(kernel, channels, tokens, range, tokens % 4 != 3, ordered, check);
      for (const int32_t channels : {4, 32, 384, 1024})
        for (const Range range : {Range::kOrdinary, Range::kTiny, Range::kHuge, Range::kOutlier, Range::kOffset})
          for (const bool ordered : {false, true}) compare_plain(kernel, channels, range, ordered, check);
    });
}

}  // namespace secateur::tests
