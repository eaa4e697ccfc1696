// spmm_f32, gemm_f32: equal, bit by bit, to one chain of fused multiply-adds an output, for every shape and density.
#include <cmath>
#include <limits>

#include "kernels/gemm_f32/gemm_f32.h"
#include "kernels/spmm_f32/spmm_f32.h"
#include "kernels/tests/families.h"

namespace secateur::tests {
namespace {

#define KERNEL(isa, name, pack, row, weight) {#name, isa, pack, name, {row, weight}},
constexpr ProductF32Kernel kSparse[] = {
#include "kernels/spmm_f32/kernels.inc"
};
constexpr ProductF32Kernel kDense[] = {
#include "kernels/gemm_f32/kernels.inc"
};
#undef KERNEL

enum class Values {
  kNormal,
  kCancelling,  // magnitudes from 2^-24 to 2^24: another order of the sum gives other bits
  kDenormal,    // products and sums below the normal range; sums that underflow to -0
  kLarge,       // sums near the top of the range, none past it
  kZeros,       // stored weights and activations of both zeros
  kInfinite,    // activations that are infinite or NaN in a few columns
};
enum class Holes { kNone, kRows, kColumns, kOneRow, kFirstColumn, kLastColumn, kStairs };

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

float number(Values values, Random& random) {
  switch (values) {
    case Values::kCancelling:
      return std::ldexp(random.uniform(-1.0f, 1.0f), random.integer(-24, 24));
    case Values::kDenormal:
      return std::ldexp(random.uniform(-1.0f, 1.0f), random.integer(-76, -60));
    case Values::kLarge:
      return std::ldexp(random.uniform(-1.0f, 1.0f), 56);  // 16384 products of 2^112 stay below 2^127
    case Values::kZeros:
      switch (random.integer(0, 3)) {
        case 0:
          return 0.0f;
        case 1:
          return -0.0f;
        default:
          return random.normal();
      }
    default:
      return random.normal();
  }
}

float activation(Values values, int32_t col, Random& random) {
  if (values == Values::kInfinite && col % 5 == 1) switch (random.integer(0, 3)) {
      case 0:
        return std::numeric_limits<float>::infinity();
      case 1:
        return -std::numeric_limits<float>::infinity();
      case 2:
        return std::numeric_limits<float>::quiet_NaN();
      default:
        break;
    }
  return number(values, random);
}

bool kept(const Case& c, int32_t row, int32_t col, Random& random) {
  switch (c.holes) {
    case Holes::kNone:
      return random.uniform(0.0f, 1.0f) < c.density;
    case Holes::kRows:
      return row % 3 != 0 && random.uniform(0.0f, 1.0f) < c.density;
    case Holes::kColumns:
      return col % 3 != 0 && random.uniform(0.0f, 1.0f) < c.density;
    case Holes::kOneRow:
      return row == c.rows / 2;
    case Holes::kFirstColumn:
      return col == 0;
    case Holes::kLastColumn:
      return col == c.cols - 1;
    case Holes::kStairs:  // rows of every length
      return col < (row * c.cols) / c.rows;
  }
  return false;
}

// A canonical matrix, one tile of activations and their product by the plain formula.
struct Problem {
  // One element precedes each array, so that none is aligned to more than its type.
  std::vector<int32_t> row_start{-1};
  std::vector<uint16_t> col{0};
  std::vector<float> values{NAN};
  FloatMatrix matrix;
  AlignedBuffer<float> x;
  std::vector<float> y;       // [rows][32]
  std::vector<double> exact;  // [rows][32] the sum in double
  std::vector<double> size;   // [rows][32] the sum of magnitudes

  explicit Problem(const Case& c)
      : x(static_cast<size_t>(c.cols) * kTile),
        y(static_cast<size_t>(c.rows) * kTile),
        exact(y.size()),
        size(y.size()) {
    Random random(static_cast<uint32_t>(c.rows * 131071 + c.cols * 8191 + static_cast<int32_t>(c.density * 1000)));
    for (size_t i = 0; i < x.size(); ++i) x[i] = activation(c.values, static_cast<int32_t>(i / kTile), random);
    row_start.push_back(0);
    for (int32_t n = 0; n < c.rows; ++n) {
      for (int32_t k = 0; k < c.cols; ++k) {
        if (!kept(c, n, k, random)) continue;
        const float w = number(c.values, random);
        col.push_back(static_cast<uint16_t>(k));
        values.push_back(w);
        for (int32_t t = 0; t < kTile; ++t) {
          const size_t at = static_cast<size_t>(n) * kTile + t;
          const float a = x[static_cast<size_t>(k) * kTile + t];
          y[at] = std::fma(a, w, y[at]);
          exact[at] += static_cast<double>(a) * w;
          size[at] += std::fabs(static_cast<double>(a) * w);
        }
      }
      row_start.push_back(static_cast<int32_t>(col.size()) - 1);
    }
    matrix = {c.rows, c.cols, row_start.data() + 1, col.data() + 1, values.data() + 1};
  }
};

bool same(float a, float b) { return std::memcmp(&a, &b, sizeof(float)) == 0 || (std::isnan(a) && std::isnan(b)); }

void check_tokens(const ProductF32Kernel& kernel, const Case& c, const Problem& problem, const PackedWeights& packed,
                  int32_t tokens, Check& check) {
  constexpr float kGuard = 0x1.5ec47ep+66f;
  for (int32_t block = 0; block * kRowBlock < c.rows; ++block) {
    const int32_t rows = std::min(kRowBlock, c.rows - block * kRowBlock);
    AlignedBuffer<float> acc(static_cast<size_t>(rows + 8) * kTile);
    for (size_t i = 0; i < acc.size(); ++i) acc[i] = kGuard;
    for (int32_t chunk = 0; chunk < packed.num_chunks; ++chunk)
      kernel.run({packed.data.data(), chunk, block, tokens, problem.x.data(), acc.data(), tokens % 2 == 0});
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

void check_case(const ProductF32Kernel& kernel, const Case& c, Check& check) {
  const Problem problem(c);
  for (size_t i = 0; i < problem.y.size() && c.values != Values::kInfinite; ++i)
    EXPECT(check, std::fabs(problem.y[i] - problem.exact[i]) <= 6e-8 * (c.cols + 1) * (problem.size[i] + 1e-37),
           "%s: the chain gives %.9g, far from %.9g", c.words().c_str(), problem.y[i], problem.exact[i]);
  const PackedWeights packed = kernel.pack(problem.matrix);
  EXPECT(check, packed.num_chunks >= 1 && packed.num_chunks <= c.cols, "%s: %d chunks", c.words().c_str(),
         packed.num_chunks);
  if (c.cols <= 64) {
    for (int32_t tokens = 1; tokens <= kTile; ++tokens) check_tokens(kernel, c, problem, packed, tokens, check);
  } else {
    for (const int32_t tokens : {1, 7, 8, 9, 16, 17, 24, 25, 31, 32})
      check_tokens(kernel, c, problem, packed, tokens, check);
  }
}

constexpr int32_t kShapes[][2] = {{1, 1},   {1, 2},    {2, 1},   {3, 3},    {4, 4},    {5, 7},    {7, 5},
                                  {9, 12},  {13, 17},  {31, 9},  {63, 10},  {64, 16},  {65, 11},  {66, 21},
                                  {67, 35}, {132, 64}, {70, 67}, {11, 191}, {10, 192}, {64, 193}, {64, 256},
                                  {6, 257}, {68, 384}, {5, 513}, {64, 768}};

void check_shape(const ProductF32Kernel& kernel, int32_t rows, int32_t cols, bool sparse, Check& check) {
  const auto run = [&](float density, Values values, Holes holes) {
    check_case(kernel, {rows, cols, density, values, holes}, check);
  };
  for (const Values values :
       {Values::kNormal, Values::kCancelling, Values::kDenormal, Values::kLarge, Values::kZeros, Values::kInfinite})
    run(1.0f, values, Holes::kNone);
  if (!sparse) return;
  run(0.0f, Values::kInfinite, Holes::kNone);
  for (const float density : {0.02f, 0.1f, 0.3f, 0.6f, 0.9f}) run(density, Values::kCancelling, Holes::kNone);
  for (const Values values : {Values::kNormal, Values::kDenormal, Values::kLarge, Values::kZeros, Values::kInfinite})
    run(0.15f, values, Holes::kNone);
  for (const Holes holes :
       {Holes::kRows, Holes::kColumns, Holes::kOneRow, Holes::kFirstColumn, Holes::kLastColumn, Holes::kStairs})
    for (const Values values : {Values::kCancelling, Values::kInfinite}) run(0.4f, values, holes);
}

void test_family(const ProductF32Kernel* kernel, const ProductF32Kernel* end, bool sparse, Report& report) {
  for (; kernel != end; ++kernel)
    report.kernel(kernel->name, kernel->isa, [&](Check& check) {
      for (const auto& [rows, cols] : kShapes) check_shape(*kernel, rows, cols, sparse, check);
      // The inner projection's width, and the widest matrix allowed.
      check_case(*kernel, {20, 3072, sparse ? 0.2f : 1.0f, Values::kCancelling, Holes::kNone}, check);
      check_case(*kernel, {3, 16384, 1.0f, Values::kCancelling, Holes::kNone}, check);
      check_case(*kernel, {3, 16384, 1.0f, Values::kLarge, Holes::kNone}, check);
    });
}

}  // namespace

void test_products_f32(Report& report) {
  test_family(std::begin(kSparse), std::end(kSparse), true, report);
  test_family(std::begin(kDense), std::end(kDense), false, report);
}

}  // namespace secateur::tests
