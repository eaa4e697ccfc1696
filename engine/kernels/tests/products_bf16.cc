// spmm_bf16, gemm_bf16 and round_bf16: activations are rounded as the law says, and the sums of each output are, bit
// by bit, one chain of fused multiply-adds of what was rounded, for every shape and density.
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/gemm_bf16/gemm_bf16.h"
#include "kernels/round_bf16/round_bf16.h"
#include "kernels/spmm_bf16/spmm_bf16.h"
#include "kernels/tests/families.h"

namespace secateur::tests {
namespace {

#define KERNEL(isa, name, form, pack, row, weight) {{#name, isa, pack, name, {row, weight}}, form},
constexpr ProductBf16Kernel kSparse[] = {
#include "kernels/spmm_bf16/kernels.inc"
};
constexpr ProductBf16Kernel kDense[] = {
#include "kernels/gemm_bf16/kernels.inc"
};
#undef KERNEL
#define KERNEL(isa, name, form) {#name, isa, form, name},
constexpr RoundBf16Kernel kRound[] = {
#include "kernels/round_bf16/kernels.inc"
};
#undef KERNEL

// By its definition: of the two bfloat16 beside x the nearer one, of two as near the even one.
float nearest_bf16(float x) {
  if (std::isnan(x) || std::isinf(x)) return x;
  if (std::fabs(x) < 0x1p-60f) return 0.0f;
  const uint32_t below = std::bit_cast<uint32_t>(x) & 0xffff0000u, above = below + 0x10000u;
  const double low = std::bit_cast<float>(below);
  const float next = std::bit_cast<float>(above);
  const double high = std::isinf(next) ? std::copysign(0x1p128, low) : next;
  const double to_low = std::fabs(x - low), to_high = std::fabs(high - x);
  if (to_low == to_high) return std::bit_cast<float>(below >> 16 & 1 ? above : below);
  return std::bit_cast<float>(to_low < to_high ? below : above);
}

bool same(float a, float b) { return std::memcmp(&a, &b, sizeof(float)) == 0 || (std::isnan(a) && std::isnan(b)); }

enum class Values {
  kNormal,
  kCancelling,  // another order of the sum gives other bits
  kSmall,       // the least that the law lets be, and less
  kLarge,       // sums past the top of the range
  kZeros,       // stored weights and activations of both zeros
};
enum class Holes { kNone, kRows, kOddColumns, kEvenColumns, kOneRow, kLastColumn, kStairs };

struct Case {
  int32_t rows, cols;
  float density;
  Values values;
  Holes holes;

  std::string words() const {
    char text[128];
    std::snprintf(text, sizeof(text), "[%d, %d] density %.2f values %d holes %d", rows, cols, density,
                  static_cast<int>(values), static_cast<int>(holes));
    return text;
  }
};

float number(Values values, Random& random, int32_t least) {
  switch (values) {
    case Values::kCancelling:
      return std::ldexp(random.uniform(-1.0f, 1.0f), random.integer(-20, 20));
    case Values::kSmall:
      return std::ldexp(random.uniform(-1.0f, 1.0f), least + random.integer(-2, 3));
    case Values::kLarge:
      return std::ldexp(random.uniform(-1.0f, 1.0f), 63);
    case Values::kZeros:
      if (random.integer(0, 1) == 0) return random.integer(0, 1) == 0 ? 0.0f : -0.0f;
      return random.normal();
    default:
      return random.normal();
  }
}

float weight_of(Values values, Random& random) {
  const float w = nearest_bf16(number(values, random, -50));
  return std::fabs(w) < kLeastWeight ? 0.0f : w;
}

bool kept(const Case& c, int32_t row, int32_t col, Random& random) {
  const bool drawn = random.uniform(0.0f, 1.0f) < c.density;
  switch (c.holes) {
    case Holes::kNone:
      return drawn;
    case Holes::kRows:
      return row % 3 != 0 && drawn;
    case Holes::kOddColumns:
      return col % 2 == 0 && drawn;
    case Holes::kEvenColumns:
      return col % 2 != 0 && drawn;
    case Holes::kOneRow:
      return row == c.rows / 2;
    case Holes::kLastColumn:
      return col == c.cols - 1;
    case Holes::kStairs:
      return col < (row * c.cols) / c.rows;
  }
  return false;
}

// A canonical matrix, one tile of activations in both forms, and their product by the plain formula.
struct Problem {
  std::vector<int32_t> row_start{-1, 0};  // the first element keeps the arrays off any alignment
  std::vector<uint16_t> col{0};
  std::vector<float> values{NAN};
  FloatMatrix matrix;
  AlignedBuffer<float> rounded;
  AlignedBuffer<uint32_t> pairs;
  std::vector<float> y;  // [rows][32]
  std::vector<double> exact, size;

  explicit Problem(const Case& c)
      : rounded(static_cast<size_t>(c.cols) * kTile),
        pairs(static_cast<size_t>(c.cols + 1) / 2 * kTile),
        y(static_cast<size_t>(c.rows) * kTile),
        exact(y.size()),
        size(y.size()) {
    Random random(static_cast<uint32_t>(c.rows * 131071 + c.cols * 8191 + static_cast<int32_t>(c.density * 1000)));
    for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = 0;
    for (int32_t k = 0; k < c.cols; ++k)
      for (int32_t t = 0; t < kTile; ++t) {
        const float x = nearest_bf16(number(c.values, random, -60));
        rounded[static_cast<size_t>(k) * kTile + t] = x;
        pairs[static_cast<size_t>(k / 2) * kTile + t] |= std::bit_cast<uint32_t>(x) >> (k % 2 == 0 ? 0 : 16);
      }
    for (int32_t n = 0; n < c.rows; ++n) {
      for (int32_t k = 0; k < c.cols; ++k) {
        if (!kept(c, n, k, random)) continue;
        const float w = weight_of(c.values, random);
        col.push_back(static_cast<uint16_t>(k));
        values.push_back(w);
        for (int32_t t = 0; t < kTile; ++t) {
          const size_t at = static_cast<size_t>(n) * kTile + t;
          const float a = rounded[static_cast<size_t>(k) * kTile + t];
          y[at] = std::fma(a, w, y[at]);
          exact[at] += static_cast<double>(a) * w;
          size[at] += std::fabs(static_cast<double>(a) * w);
        }
      }
      row_start.push_back(static_cast<int32_t>(col.size()) - 1);
    }
    matrix = {c.rows, c.cols, row_start.data() + 1, col.data() + 1, values.data() + 1};
  }
  const float* x(Bf16Form form) const {
    return form == Bf16Form::kRounded ? rounded.data() : reinterpret_cast<const float*>(pairs.data());
  }
};

void check_tokens(const ProductBf16Kernel& kernel, const Case& c, const Problem& problem, const PackedWeights& packed,
                  int32_t tokens, Check& check) {
  constexpr float kGuard = 0x1.5ec47ep+66f;
  for (int32_t block = 0; block * kRowBlock < c.rows; ++block) {
    const int32_t rows = std::min(kRowBlock, c.rows - block * kRowBlock);
    AlignedBuffer<float> acc(static_cast<size_t>(rows + 8) * kTile);
    for (size_t i = 0; i < acc.size(); ++i) acc[i] = kGuard;
    for (int32_t chunk = 0; chunk < packed.num_chunks; ++chunk)
      kernel.product.run(
          {packed.data.data(), chunk, block, tokens, problem.x(kernel.reads), acc.data(), tokens % 2 == 0});
    for (int32_t r = 0; r < rows; ++r)
      for (int32_t t = 0; t < tokens; ++t) {
        const int32_t n = block * kRowBlock + r;
        const float got = acc[static_cast<size_t>(r) * kTile + t], want = problem.y[static_cast<size_t>(n) * kTile + t];
        EXPECT(check, same(got, want), "%s, %d tokens: row %d token %d is %.9g, not %.9g", c.words().c_str(), tokens, n,
               t, got, want);
      }
    for (size_t i = static_cast<size_t>(rows) * kTile; i < acc.size(); ++i)
      EXPECT(check, acc[i] == kGuard, "%s, %d tokens: writes past its %d rows", c.words().c_str(), tokens, rows);
  }
}

void check_case(const ProductBf16Kernel& kernel, const Case& c, Check& check) {
  const Problem problem(c);
  for (size_t i = 0; i < problem.y.size(); ++i) {
    EXPECT(check, problem.y[i] != 0 || !std::signbit(problem.y[i]), "%s: the chain gives -0", c.words().c_str());
    EXPECT(check, std::fpclassify(problem.y[i]) != FP_SUBNORMAL, "%s: the chain is denormal", c.words().c_str());
    if (c.values != Values::kLarge)
      EXPECT(check, std::fabs(problem.y[i] - problem.exact[i]) <= 6e-8 * (c.cols + 1) * problem.size[i],
             "%s: the chain gives %.9g, far from %.9g", c.words().c_str(), problem.y[i], problem.exact[i]);
  }
  const PackedWeights packed = kernel.product.pack(problem.matrix);
  EXPECT(check, packed.num_chunks >= 1 && packed.num_chunks <= c.cols, "%s: %d chunks", c.words().c_str(),
         packed.num_chunks);
  for (const int32_t tokens : {1, 7, 8, 9, 16, 17, 24, 25, 31, 32})
    check_tokens(kernel, c, problem, packed, tokens, check);
}

constexpr int32_t kShapes[][2] = {{1, 1},   {1, 2},    {2, 1},    {3, 3},   {5, 7},    {7, 5},   {13, 17},  {63, 10},
                                  {64, 16}, {65, 11},  {66, 21},  {67, 35}, {132, 64}, {70, 67}, {11, 191}, {10, 192},
                                  {9, 383}, {64, 385}, {68, 512}, {5, 515}, {64, 768}, {6, 1023}};

void check_shape(const ProductBf16Kernel& kernel, int32_t rows, int32_t cols, bool sparse, Check& check) {
  const auto run = [&](float density, Values values, Holes holes) {
    check_case(kernel, {rows, cols, density, values, holes}, check);
  };
  constexpr Values kAll[] = {Values::kNormal, Values::kCancelling, Values::kSmall, Values::kLarge, Values::kZeros};
  for (const Values values : kAll) run(1.0f, values, Holes::kNone);
  if (!sparse) return;
  for (const float density : {0.0f, 0.02f, 0.1f, 0.3f, 0.6f, 0.9f}) run(density, Values::kCancelling, Holes::kNone);
  for (const Values values : kAll) run(0.15f, values, Holes::kNone);
  for (const Holes holes :
       {Holes::kRows, Holes::kOddColumns, Holes::kEvenColumns, Holes::kOneRow, Holes::kLastColumn, Holes::kStairs})
    run(0.4f, Values::kCancelling, holes);
}

void test_family(const ProductBf16Kernel* kernel, const ProductBf16Kernel* end, bool sparse, Report& report) {
  for (; kernel != end; ++kernel)
    report.kernel(
        kernel->product.name, kernel->product.isa,
        [&](Check& check) {
          for (const auto& [rows, cols] : kShapes) check_shape(*kernel, rows, cols, sparse, check);
          check_case(*kernel, {20, 3072, sparse ? 0.2f : 1.0f, Values::kCancelling, Holes::kNone}, check);
          check_case(*kernel, {3, 16384, 1.0f, Values::kCancelling, Holes::kNone}, check);
        },
        kernel->reads == Bf16Form::kPairs && !has_bf16() ? "avx512bf16" : nullptr);
}

void check_round(const RoundBf16Kernel& kernel, Check& check) {
  Random random(1);
  std::vector<uint32_t> bits = {0,          0x80000000, 1,          0x007fffff, 0x7f7fffff, 0xff7fffff, 0x7f7f7fff,
                                0x7f7f8000, 0x7f800000, 0xff800000, 0x7f800001, 0xffffffff, 0x7fc00000, 0x21800000,
                                0x217fffff, 0xa1800000, 0xa17fffff, 0x3f800000, 0x3f808000, 0x3f807fff, 0x3f808001,
                                0x3f818000, 0x3f817fff, 0x3f818001, 0xbf818000};
  while (bits.size() < 5 * kTile) bits.push_back(static_cast<uint32_t>(random.integer(INT32_MIN, INT32_MAX)));
  AlignedBuffer<float> x(bits.size());
  std::memcpy(x.data(), bits.data(), bits.size() * sizeof(uint32_t));
  for (int32_t cols = 1; cols <= 5; ++cols)
    for (int32_t tokens = 1; tokens <= kTile; ++tokens) {
      const bool pairs = kernel.form == Bf16Form::kPairs;
      const int32_t written = pairs ? (cols + 1) / 2 : cols;
      AlignedBuffer<uint32_t> out(static_cast<size_t>(6) * kTile);
      for (size_t i = 0; i < out.size(); ++i) out[i] = 0x12345678;
      kernel.run({x.data(), cols, tokens, out.data()});
      for (int32_t k = 0; k < (pairs ? 2 * written : cols); ++k)
        for (int32_t t = 0; t < tokens; ++t) {
          const float want = k < cols ? nearest_bf16(x[k * kTile + t]) : 0.0f;
          const uint32_t word = out[(pairs ? k / 2 : k) * kTile + t];
          const uint32_t half = !pairs ? word : k % 2 == 0 ? word & 0xffff0000u : word << 16;
          EXPECT(check, same(std::bit_cast<float>(half), want), "column %d token %d: %08x gives %08x", k, t,
                 k < cols ? bits[k * kTile + t] : 0, half);
        }
      for (size_t i = static_cast<size_t>(written) * kTile; i < out.size(); ++i)
        EXPECT(check, out[i] == 0x12345678, "%d columns: writes past them", cols);
    }
}

}  // namespace

void test_products_bf16(Report& report) {
  test_family(std::begin(kSparse), std::end(kSparse), true, report);
  test_family(std::begin(kDense), std::end(kDense), false, report);
  for (const RoundBf16Kernel& kernel : kRound)
    report.kernel(kernel.name, kernel.isa, [&](Check& check) { check_round(kernel, check); });
}

}  // namespace secateur::tests
