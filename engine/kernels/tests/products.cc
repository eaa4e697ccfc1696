// spmm_u8s8, gemm_u8s8: equal to the plain sum for every shape, density and extreme.
#include "kernels/gemm_u8s8/gemm_u8s8.h"
#include "kernels/spmm_u8s8/spmm_u8s8.h"
#include "kernels/tests/families.h"

namespace secateur::tests {
namespace {

#define KERNEL(isa, name, pack, row, weight) {#name, isa, pack, name, {row, weight}},
constexpr ProductKernel kSparse[] = {
#include "kernels/spmm_u8s8/kernels.inc"
};
constexpr ProductKernel kDense[] = {
#include "kernels/gemm_u8s8/kernels.inc"
};
#undef KERNEL

enum class Values { kRandom, kMost, kLeast, kAlternating, kPairs, kHalves, kQuarters, kLight };
enum class Holes { kNone, kRows, kColumns, kOneRow, kLastBlock, kStairs };

struct Case {
  int32_t rows, cols;
  float density;
  Values values;
  Holes holes;
  bool full_input;  // every activation 255

  std::string words() const {
    char text[128];
    std::snprintf(text, sizeof(text), "[%d, %d] density %.2f values %d holes %d%s", rows, cols, density,
                  static_cast<int>(values), static_cast<int>(holes), full_input ? " x = 255" : "");
    return text;
  }
};

int8_t weight(Values values, int32_t row, int32_t col, Random& random) {
  switch (values) {
    case Values::kMost:
      return 127;
    case Values::kLeast:
      return -127;
    case Values::kAlternating:
      return col % 2 == 0 ? 127 : -127;
    case Values::kPairs:
      return (col / 2 + row) % 2 == 0 ? 127 : -127;
    case Values::kHalves:  // pair sums just at and just past what 255 * (a + b) leaves in int16
      return static_cast<int8_t>(random.integer(63, 65) * (row % 2 == 0 ? 1 : -1));
    case Values::kQuarters:  // the same of two blocks; signs by halves, so that both sums come to it
      return static_cast<int8_t>(random.integer(31, 33) * ((col / 2 + row) % 2 == 0 ? 1 : -1));
    case Values::kLight:  // two blocks always fit int16
      return static_cast<int8_t>(random.integer(-32, 32));
    case Values::kRandom:
      break;
  }
  return static_cast<int8_t>(random.integer(-127, 127));
}

bool kept(const Case& c, int32_t row, int32_t block, Random& random) {
  const int32_t blocks = c.cols / kBlock;
  switch (c.holes) {
    case Holes::kNone:
      return random.uniform(0.0f, 1.0f) < c.density;
    case Holes::kRows:
      return row % 3 != 0 && random.uniform(0.0f, 1.0f) < c.density;
    case Holes::kColumns:
      return block % 3 != 0 && random.uniform(0.0f, 1.0f) < c.density;
    case Holes::kOneRow:
      return row == c.rows - 2;
    case Holes::kLastBlock:
      return block == blocks - 1;
    case Holes::kStairs:  // rows of every length
      return block < (row * blocks) / c.rows;
  }
  return false;
}

// A canonical matrix, one tile of activations and their product by the plain formula.
struct Problem {
  std::vector<int32_t> row_start;
  std::vector<uint16_t> block_col;
  std::vector<int8_t> values;
  BlockMatrix matrix;
  AlignedBuffer<uint8_t> x;
  std::vector<int32_t> y;  // [rows][32]

  explicit Problem(const Case& c) : x(static_cast<size_t>(c.cols) * kTile), y(static_cast<size_t>(c.rows) * kTile) {
    Random random(static_cast<uint32_t>(c.rows * 131071 + c.cols * 8191 + static_cast<int32_t>(c.density * 1000)));
    random.fill(x, c.full_input ? 255 : 0, 255);
    row_start.push_back(0);
    for (int32_t n = 0; n < c.rows; ++n) {
      for (int32_t b = 0; b < c.cols / kBlock; ++b) {
        if (!kept(c, n, b, random)) continue;
        block_col.push_back(static_cast<uint16_t>(b));
        for (int32_t j = 0; j < kBlock; ++j) {
          const int8_t w = weight(c.values, n, b * kBlock + j, random);
          values.push_back(w);
          for (int32_t t = 0; t < kTile; ++t)
            y[static_cast<size_t>(n) * kTile + t] +=
                static_cast<int32_t>(w) * x[(static_cast<size_t>(b) * kTile + t) * kBlock + j];
        }
      }
      row_start.push_back(static_cast<int32_t>(block_col.size()));
    }
    matrix = {c.rows, c.cols, row_start.data(), block_col.data(), values.data()};
  }
};

void check_tokens(const ProductKernel& kernel, const Case& c, const Problem& problem, const PackedWeights& packed,
                  int32_t tokens, Check& check) {
  constexpr int32_t kGuard = 0x5ec47e42;
  for (int32_t block = 0; block * kRowBlock < c.rows; ++block) {
    const int32_t rows = std::min(kRowBlock, c.rows - block * kRowBlock);
    AlignedBuffer<int32_t> acc(static_cast<size_t>(rows + 4) * kTile);
    for (size_t i = 0; i < acc.size(); ++i) acc[i] = kGuard;
    for (int32_t chunk = 0; chunk < packed.num_chunks; ++chunk)
      kernel.run({packed.data.data(), chunk, block, tokens, problem.x.data(), acc.data()});
    for (int32_t r = 0; r < rows; ++r)
      for (int32_t t = 0; t < tokens; ++t) {
        const int32_t got = acc[static_cast<size_t>(r) * kTile + t];
        const int32_t n = block * kRowBlock + r, want = problem.y[static_cast<size_t>(n) * kTile + t];
        EXPECT(check, got == want, "%s, %d tokens: row %d token %d is %d, not %d", c.words().c_str(), tokens, n, t, got,
               want);
      }
    for (size_t i = static_cast<size_t>(rows) * kTile; i < acc.size(); ++i)
      EXPECT(check, acc[i] == kGuard, "%s, %d tokens: writes past its %d rows", c.words().c_str(), tokens, rows);
  }
}

void check_case(const ProductKernel& kernel, const Case& c, Check& check) {
  const Problem problem(c);
  const PackedWeights packed = kernel.pack(problem.matrix);
  EXPECT(check, packed.num_chunks >= 1 && packed.num_chunks <= (c.cols + kBlock - 1) / kBlock, "%s: %d chunks",
         c.words().c_str(), packed.num_chunks);
  if (c.cols <= 64) {
    for (int32_t tokens = 1; tokens <= kTile; ++tokens) check_tokens(kernel, c, problem, packed, tokens, check);
  } else {
    for (const int32_t tokens : {1, 7, 8, 9, 16, 17, 24, 25, 31, 32})
      check_tokens(kernel, c, problem, packed, tokens, check);
  }
}

constexpr int32_t kShapes[][2] = {{4, 4},     {8, 4},     {4, 8},     {12, 8},    {20, 12},   {60, 12},
                                  {64, 16},   {68, 20},   {64, 36},   {132, 64},  {100, 100}, {8, 256},
                                  {36, 384},  {196, 384}, {64, 768},  {68, 1020}, {64, 1024}, {68, 1028},
                                  {12, 1536}, {64, 1540}, {24, 3072}, {4, 4100}};

void check_shape(const ProductKernel& kernel, int32_t rows, int32_t cols, bool sparse, Check& check) {
  const auto run = [&](float density, Values values, Holes holes, bool full) {
    check_case(kernel, {rows, cols, density, values, holes, full}, check);
  };
  run(1.0f, Values::kRandom, Holes::kNone, false);
  for (const Values values : {Values::kMost, Values::kLeast, Values::kAlternating, Values::kPairs, Values::kHalves,
                              Values::kQuarters, Values::kLight, Values::kRandom})
    run(1.0f, values, Holes::kNone, true);
  if (!sparse) return;
  run(0.0f, Values::kRandom, Holes::kNone, false);
  for (const float density : {0.05f, 0.2f, 0.5f}) run(density, Values::kRandom, Holes::kNone, false);
  for (const Values values :
       {Values::kMost, Values::kLeast, Values::kPairs, Values::kHalves, Values::kQuarters, Values::kLight})
    run(0.3f, values, Holes::kNone, true);
  for (const Holes holes : {Holes::kRows, Holes::kColumns, Holes::kOneRow, Holes::kLastBlock, Holes::kStairs})
    run(0.4f, Values::kRandom, holes, false);
}

void test_family(const ProductKernel* kernel, const ProductKernel* end, bool sparse, Report& report) {
  for (; kernel != end; ++kernel)
    report.kernel(kernel->name, kernel->isa, [&](Check& check) {
      for (const auto& [rows, cols] : kShapes) check_shape(*kernel, rows, cols, sparse, check);
      // The widest matrix allowed, at the extremes: 16384 * 255 * 127 still fits an int32.
      check_case(*kernel, {4, 16384, 1.0f, Values::kLeast, Holes::kNone, true}, check);
    });
}

}  // namespace

void test_products(Report& report) {
  test_family(std::begin(kSparse), std::end(kSparse), true, report);
  test_family(std::begin(kDense), std::end(kDense), false, report);
}

}  // namespace secateur::tests
