// quantize_rows: every kernel equal to the reference bit for bit; the reference to the law in other words.
#include "kernels/quantize_rows/quantize_rows.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "kernels/tests/families.h"

namespace secateur::tests {
namespace {

#define KERNEL(isa, name) {#name, isa, name},
constexpr QuantizeRowsKernel kKernels[] = {
#include "kernels/quantize_rows/kernels.inc"
};
#undef KERNEL

const QuantizeRowsKernel& reference() { return *(std::end(kKernels) - 1); }

// How the rows are drawn. kTies: the scale is a power of two and values are halves. kExtremes: whole rows of zeros,
// subnormals, the smallest and the largest numbers, infinities and NaN.
enum class Range { kOrdinary, kTies, kExtremes };
constexpr Range kRanges[] = {Range::kOrdinary, Range::kTies, Range::kExtremes};

float draw(Random& random, Range range, int32_t t) {
  if (range == Range::kOrdinary) return random.normal() * std::ldexp(1.0f, t - 16);
  if (range == Range::kTies) return static_cast<float>(random.integer(-253, 253)) * 0.5f;
  constexpr float kSizes[] = {0.0f, 1e-41f, 0x1p-126f, 127 * 0x1p-126f, 1e-30f, 1.0f, 1e30f, 3.4e38f};
  const float size = kSizes[t % 8];
  const int32_t kind = random.integer(0, 40);
  if (t % 16 >= 14 && kind < 3) return kind == 0 ? INFINITY : kind == 1 ? -INFINITY : NAN;
  return kind < 20 ? size * random.uniform(-1.0f, 1.0f) : kind < 30 ? size : -size;
}

struct Problem {
  int32_t cols, first, tokens;  // tokens `first` and on of a tile
  bool ordered;
  AlignedBuffer<float> x, scale;
  AlignedBuffer<uint8_t> out;
  std::vector<uint16_t> order;

  Problem(int32_t cols, int32_t first, int32_t tokens, Range range, bool ordered, uint32_t seed)
      : cols(cols),
        first(first),
        tokens(tokens),
        ordered(ordered),
        x(static_cast<size_t>(cols) * kTile),
        scale(kTile),
        out(x.size()),
        order(static_cast<size_t>(cols)) {
    Random random(seed);
    for (int32_t k = 0; k < cols; ++k)
      for (int32_t t = 0; t < kTile; ++t) x[k * kTile + t] = draw(random, range, t);
    // The largest of a row decides: 127 makes its scale 1.
    for (int32_t t = 0; range == Range::kTies && t < kTile; ++t) x[random.integer(0, cols - 1) * kTile + t] = -127.0f;
    std::iota(order.begin(), order.end(), uint16_t{0});
    for (int32_t i = cols - 1; i > 0; --i) std::swap(order[i], order[random.integer(0, i)]);
    random.fill(out, 0, 255);
    for (int32_t t = 0; t < kTile; ++t) scale[t] = random.normal();
  }
  QuantizeRowsArgs args() {
    return {x.data() + first,    cols, ordered ? order.data() : nullptr, tokens, out.data() + first * kBlock,
            scale.data() + first};
  }
  size_t place(int32_t k, int32_t t) const {
    return (static_cast<size_t>(k / kBlock) * kTile + t) * kBlock + k % kBlock;
  }
};

struct Outputs {
  AlignedBuffer<uint8_t> out;
  AlignedBuffer<float> scale;
};

Outputs run(const QuantizeRowsKernel& kernel, Problem& p) {
  const AlignedBuffer<uint8_t> out = copy(p.out);
  const AlignedBuffer<float> scale = copy(p.scale);
  kernel.run(p.args());
  Outputs after{copy(p.out), copy(p.scale)};
  std::memcpy(p.out.data(), out.data(), out.bytes());
  std::memcpy(p.scale.data(), scale.data(), scale.bytes());
  return after;
}

// Live tokens equal the reference; tokens of another half of the tile are as they were.
void compare(const QuantizeRowsKernel& kernel, Problem& p, Check& check) {
  const Outputs want = run(reference(), p), got = run(kernel, p);
  const int32_t end = p.first + p.tokens, touched = (end + 15) / 16 * 16;
  for (int32_t t = 0; t < kTile; ++t) {
    if (t >= end && t < touched) continue;
    EXPECT(check, std::memcmp(&got.scale[t], &want.scale[t], sizeof(float)) == 0,
           "%d columns, tokens %d + %d: the scale of token %d is %.9g, not %.9g", p.cols, p.first, p.tokens, t,
           got.scale[t], want.scale[t]);
    for (int32_t k = 0; k < p.cols; ++k)
      EXPECT(check, got.out[p.place(k, t)] == want.out[p.place(k, t)],
             "%d columns, tokens %d + %d: column %d of token %d is %d, not %d", p.cols, p.first, p.tokens, k, t,
             got.out[p.place(k, t)], want.out[p.place(k, t)]);
  }
}

// The law where all is finite: the scale is the largest value over 127, and each integer within half a step of the
// value, but for the two roundings of its product, and among 1 .. 255.
void compare_plain(const QuantizeRowsKernel& kernel, Problem& p, Check& check) {
  const Outputs got = run(kernel, p);
  for (int32_t t = p.first; t < p.first + p.tokens; ++t) {
    double largest = 0.0;
    int32_t most = 0;
    for (int32_t k = 0; k < p.cols; ++k)
      largest = std::max(largest, std::fabs(static_cast<double>(p.x[k * kTile + t])));
    const double scale = largest / 127;
    EXPECT(check, std::fabs(got.scale[t] - scale) <= 1e-7 * scale, "the scale of token %d is %.9g, not %.9g", t,
           got.scale[t], scale);
    for (int32_t k = 0; k < p.cols; ++k) {
      const int32_t q = got.out[p.place(k, t)] - kRowsZeroPoint;
      const double want = p.x[(p.ordered ? p.order[k] : k) * kTile + t] / scale;
      EXPECT(check, std::fabs(q - want) <= 0.5 + 3e-5 && q >= -127 && q <= 127, "%d is far from %.6f", q, want);
      most = std::max(most, std::abs(q));
    }
    EXPECT(check, most == 127, "the largest integer of token %d is %d", t, most);
  }
}

void check_kernel(const QuantizeRowsKernel& kernel, Check& check) {
  uint32_t seed = 1;
  for (const Range range : kRanges)
    for (const int32_t cols : {4, 8, 12, 64, 100, 384})
      for (const bool ordered : {false, true})
        for (const int32_t first : {0, 16})
          for (int32_t tokens = 1; tokens <= kTile - first; ++tokens) {
            Problem p(cols, first, tokens, range, ordered, seed++);
            compare(kernel, p, check);
            if (range != Range::kExtremes) compare_plain(kernel, p, check);
          }
}

}  // namespace

void test_quantize_rows(Report& report) {
  for (const QuantizeRowsKernel& kernel : kKernels)
    report.kernel(kernel.name, kernel.isa, [&](Check& check) { check_kernel(kernel, check); });
}

}  // namespace secateur::tests
