// epilogue: every form equal to the reference bit for bit; the reference near the formula in double.
#include "kernels/epilogue/epilogue.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "kernels/tests/families.h"

namespace secateur::tests {
namespace {

#define KERNEL(isa, name) {#name, isa, &name##_s32, &name##_rows, &name##_f32},
constexpr EpilogueKernels kKernels[] = {
#include "kernels/epilogue/kernels.inc"
};
#undef KERNEL

enum Form { kU8, kS8, kValue, kGelu, kRelu, kAdd, kF32, kGeluF32, kReluF32, kNumForms };
constexpr const char* kFormNames[] = {"u8", "s8", "value", "gelu", "relu", "add", "f32", "gelu_f32", "relu_f32"};

enum Sums { kS32, kRows, kF32Sums, kNumSums };
constexpr const char* kSumsNames[] = {" of s32", " of rows", " of f32"};

// A form, and what it gets.
struct Variant {
  int32_t form;
  Sums sums;
  bool gelu() const { return form == kGelu || form == kGeluF32; }
  bool relu() const { return form == kRelu || form == kReluF32; }
  bool writes_f32() const { return form >= kF32; }
  std::string name() const { return std::string(kFormNames[form]) + kSumsNames[sums]; }
};

EpilogueFn function(const EpilogueKernels& kernels, const Variant& variant) {
  const EpilogueForms& f = variant.sums == kS32 ? *kernels.s32 : variant.sums == kRows ? *kernels.rows : *kernels.f32;
  const EpilogueFn functions[] = {f.u8, f.s8, f.value, f.gelu, f.relu, f.add, f.f32, f.gelu_f32, f.relu_f32};
  return functions[variant.form];
}

const EpilogueKernels& reference() { return *(std::end(kKernels) - 1); }

// How the sums and scales of a problem are drawn.
enum class Range { kOrdinary, kWide, kTies, kOverflow, kPositive };

struct Problem {
  int32_t channels, row_begin, rows, tokens;
  float inv_scale;
  int32_t zero_point;
  const float* gelu = kGeluErf;
  AlignedBuffer<int32_t> acc, start;
  AlignedBuffer<float> acc_f32, scale, bias, residual, out_f32, row_scale;
  AlignedBuffer<uint8_t> out;
  AlignedBuffer<int8_t> value;
  static constexpr int64_t kValueStride = 96;

  Problem(int32_t channels, int32_t row_begin, int32_t rows, int32_t tokens, Range range, uint32_t seed)
      : channels(channels),
        row_begin(row_begin),
        rows(rows),
        tokens(tokens),
        acc(static_cast<size_t>(rows) * kTile),
        start(static_cast<size_t>(channels)),
        acc_f32(acc.size()),
        scale(static_cast<size_t>(channels)),
        bias(static_cast<size_t>(channels)),
        residual(static_cast<size_t>(channels) * kTile),
        out_f32(residual.size()),
        row_scale(kTile),
        out(static_cast<size_t>(channels) * kTile),
        value(static_cast<size_t>(channels) * kValueStride) {
    Random random(seed);
    zero_point = range == Range::kPositive ? 0 : random.integer(0, 255);
    inv_scale = range == Range::kTies ? 2.0f : range == Range::kPositive ? 250.0f : random.uniform(8.0f, 40.0f);
    for (int32_t n = 0; n < channels; ++n) {
      scale[n] = range == Range::kTies ? 0.25f : random.uniform(1e-5f, 1e-4f);
      bias[n] = range == Range::kTies ? 0.0f : random.normal();
      if (range == Range::kWide) scale[n] *= 1e3f;
      if (range == Range::kPositive) scale[n] = random.uniform(1e-5f, 1.2e-5f), bias[n] = 0.5f;
      if (range == Range::kOverflow) scale[n] = n % 3 == 0 ? 1e30f : n % 3 == 1 ? 0.0f : 3.0f;
      if (range == Range::kOverflow && n % 5 == 0) bias[n] = n % 2 == 0 ? 1e35f : -1e35f;
    }
    for (size_t i = 0; i < acc.size(); ++i) {
      const bool extreme = range == Range::kOverflow || range == Range::kWide;
      acc[i] = extreme ? random.integer(INT32_MIN, INT32_MAX) : random.integer(-40000, 40000);
      if (range == Range::kTies) acc[i] = random.integer(-600, 600);
      if (range == Range::kOverflow && i % 7 == 0) acc[i] = i % 2 == 0 ? INT32_MIN : INT32_MAX;
    }
    // About what the integer sums come to after their scale; -0 and infinities where those overflow.
    for (size_t i = 0; i < acc.size(); ++i) {
      const float y = static_cast<float>(acc[i]) * scale[row_begin + i / kTile];
      acc_f32[i] = range == Range::kOverflow && i % 11 == 0 ? (i % 2 == 0 ? -INFINITY : -0.0f) : y;
    }
    if (range == Range::kOverflow)
      for (int32_t n = 2; n < channels; n += 6) bias[n] = -0.0f;
    for (size_t i = 0; i < residual.size(); ++i) residual[i] = random.normal(), out_f32[i] = random.normal();
    random.fill(out, 0, 255);
    random.fill(value, -128, 127);
    // The same sums but for a share of each row, which `start` takes off again; and a scale a token. Those of a range
    // of extremes may wrap around.
    random.fill(start, -30000, 30000);
    for (int32_t t = 0; t < kTile; ++t) row_scale[t] = random.uniform(0.5f, 2.0f);
    if (range == Range::kTies || range == Range::kPositive)
      for (int32_t t = 0; t < kTile; ++t) row_scale[t] = 1.0f;
    if (range == Range::kOverflow)
      for (int32_t t = 0; t < kTile; t += 3) row_scale[t] = t % 2 == 0 ? 1e30f : 1e-38f;
    for (size_t i = 0; range == Range::kPositive && i < start.size(); ++i) start[i] = 0;
  }

  EpilogueArgs args() {
    EpilogueArgs args{};
    args.acc = acc.data();
    args.scale = scale.data();
    args.bias = bias.data();
    args.row_begin = row_begin;
    args.rows = rows;
    args.tokens = tokens;
    args.inv_scale = inv_scale;
    args.zero_point = zero_point;
    args.out = out.data();
    args.value = value.data();
    args.value_stride = kValueStride;
    args.residual = residual.data();
    args.gelu = gelu;
    args.acc_f32 = acc_f32.data();
    args.out_f32 = out_f32.data();
    args.start = start.data();
    args.row_scale = row_scale.data();
    return args;
  }
};

// The outputs, as they were before and after a call.
struct Outputs {
  AlignedBuffer<uint8_t> out;
  AlignedBuffer<int8_t> value;
  AlignedBuffer<float> residual, out_f32;
  explicit Outputs(const Problem& p)
      : out(copy(p.out)), value(copy(p.value)), residual(copy(p.residual)), out_f32(copy(p.out_f32)) {}
};

Outputs run(EpilogueFn fn, Problem& problem) {
  const Outputs before(problem);
  fn(problem.args());
  Outputs after(problem);
  std::memcpy(problem.out.data(), before.out.data(), before.out.bytes());
  std::memcpy(problem.value.data(), before.value.data(), before.value.bytes());
  std::memcpy(problem.residual.data(), before.residual.data(), before.residual.bytes());
  std::memcpy(problem.out_f32.data(), before.out_f32.data(), before.out_f32.bytes());
  return after;
}

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

// Live lanes equal the reference, everything the form does not own is as it was.
void compare(const EpilogueKernels& kernels, Problem& p, const Variant& variant, Check& check) {
  const Outputs want = run(function(reference(), variant), p), got = run(function(kernels, variant), p);
  const auto own_row = [&](int32_t n) { return n >= p.row_begin && n < p.row_begin + p.rows; };
  const bool writes_tile = variant.form != kValue && variant.form != kAdd && !variant.writes_f32();
  const auto where = [&](int32_t n, int32_t t) {
    char text[128];
    std::snprintf(text, sizeof(text), "%s: rows %d + %d, %d tokens: channel %d token %d", variant.name().c_str(),
                  p.row_begin, p.rows, p.tokens, n, t);
    return std::string(text);
  };
  for (int32_t n = 0; n < p.channels; ++n) {
    for (int32_t t = 0; t < kTile; ++t) {
      const size_t packed = (static_cast<size_t>(n / kBlock) * kTile + t) * kBlock + n % kBlock;
      const size_t plain = static_cast<size_t>(n) * kTile + t;
      const bool free = own_row(n) && t >= p.tokens;  // what the form writes may hold anything there
      EXPECT(check, (free && writes_tile) || got.out[packed] == want.out[packed], "%s is %d, not %d",
             where(n, t).c_str(), got.out[packed], want.out[packed]);
      EXPECT(check, (free && variant.form == kAdd) || same_bits(got.residual[plain], want.residual[plain]),
             "%s: residual is %.9g, not %.9g", where(n, t).c_str(), got.residual[plain], want.residual[plain]);
      EXPECT(check, (free && variant.writes_f32()) || same_bits(got.out_f32[plain], want.out_f32[plain]),
             "%s is %.9g, not %.9g", where(n, t).c_str(), got.out_f32[plain], want.out_f32[plain]);
    }
    for (int32_t t = 0; t < Problem::kValueStride; ++t) {
      const size_t i = static_cast<size_t>(n) * Problem::kValueStride + t;
      const bool free = variant.form == kValue && own_row(n) && t >= p.tokens && t < kTile;
      EXPECT(check, free || got.value[i] == want.value[i], "%s: value is %d, not %d", where(n, t).c_str(), got.value[i],
             want.value[i]);
    }
  }
}

double true_gelu(double x, bool tanh_form) {
  if (tanh_form) return 0.5 * x * (1.0 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
  return 0.5 * x * std::erfc(-x * 0.7071067811865476);
}

// The form's value by the plain formula in double, before quantization.
double plain_value(const Problem& p, const Variant& variant, int32_t n, int32_t t) {
  const size_t i = static_cast<size_t>(n - p.row_begin) * kTile + t;
  double sum = static_cast<double>(p.acc[i]) * p.scale[n];
  if (variant.sums == kRows) sum = (static_cast<double>(p.acc[i]) + p.start[n]) * p.row_scale[t] * p.scale[n];
  if (variant.sums == kF32Sums) sum = p.acc_f32[i];
  const double y = sum + p.bias[n];
  if (variant.gelu()) return true_gelu(y, p.gelu == kGeluTanh);
  return variant.relu() ? std::max(y, 0.0) : y;
}

// Outputs of ordinary size lie within half a step of the plain formula (GELU: and its stated error).
void compare_plain(const EpilogueKernels& kernels, Problem& p, const Variant& variant, Check& check) {
  const Outputs got = run(function(kernels, variant), p);
  const int32_t form = variant.form;
  for (int32_t n = p.row_begin; n < p.row_begin + p.rows; ++n)
    for (int32_t t = 0; t < p.tokens; ++t) {
      const double y = plain_value(p, variant, n, t);
      const size_t packed = (static_cast<size_t>(n / kBlock) * kTile + t) * kBlock + n % kBlock;
      const size_t plain = static_cast<size_t>(n) * kTile + t;
      if (form == kAdd || variant.writes_f32()) {
        const double before = form == kAdd ? p.residual[plain] : 0.0, want = before + y;
        const float got_y = form == kAdd ? got.residual[plain] : got.out_f32[plain];
        // One rounding of a sum of terms up to |acc| + |bias|, which may cancel, and one of the addition.
        const double terms = std::fabs(before) + std::fabs(y) + 2 * std::fabs(p.bias[n]);
        EXPECT(check, std::fabs(got_y - want) <= 2e-7 * terms + (variant.gelu() ? 2e-4 : 1e-30),
               "%s: %.9g is far from %.9g", variant.name().c_str(), got_y, want);
        continue;
      }
      const bool is_signed = form == kS8 || form == kValue;
      const double q = form == kS8      ? static_cast<int8_t>(got.out[packed])
                       : form == kValue ? got.value[static_cast<size_t>(n) * Problem::kValueStride + t]
                                        : got.out[packed];
      const double low = is_signed ? -127 : 0, high = is_signed ? 127 : 255;
      const double want = std::clamp(y * p.inv_scale + (is_signed ? 0 : p.zero_point), low, high);
      const double slack = 0.5001 + (variant.gelu() ? 2e-4 * p.inv_scale : 0.0);
      EXPECT(check, std::fabs(q - want) <= slack, "%s: %g is more than half a step from %.6f", variant.name().c_str(),
             q, want);
    }
}

// The polynomials themselves, over a fine grid.
void check_gelu_polynomials(Check& check) {
  for (const bool tanh_form : {false, true}) {
    const float* c = tanh_form ? kGeluTanh : kGeluErf;
    for (int32_t i = -80000; i <= 80000; ++i) {
      const float x = static_cast<float>(i) * 1e-4f, a = std::min(std::fabs(x), kGeluClamp);
      float poly = c[kGeluDegree - 1];
      for (int32_t d = kGeluDegree - 2; d >= 0; --d) poly = std::fma(poly, a, c[d]);
      const double error = std::fabs(std::max(x, 0.0f) + poly * a - true_gelu(x, tanh_form));
      EXPECT(check, error < 2e-4, "%s: the GELU polynomial is off by %.3g at %g", tanh_form ? "tanh" : "erf", error, x);
    }
  }
}

void check_kernels(const EpilogueKernels& kernels, Check& check) {
  uint32_t seed = 1;
  // A GELU that differs in its last float bit changes a few bytes in a million: six million find it.
  for (int32_t i = 0; i < 3000; ++i) {
    Problem p(64, 0, 64, kTile, Range::kPositive, seed++);
    compare(kernels, p, {kGelu, i % 4 == 0 ? kF32Sums : i % 4 == 1 ? kRows : kS32}, check);
  }
  for (const Range range : {Range::kOrdinary, Range::kWide, Range::kTies, Range::kOverflow})
    for (const int32_t rows : {4, 8, 12, 36, 60, 64})
      for (const int32_t row_begin : {0, 64})
        for (int32_t tokens = 1; tokens <= kTile; tokens += rows == 12 ? 1 : 5)
          for (int32_t i = 0; i < int32_t{kNumSums} * kNumForms; ++i) {
            const Variant variant{i / kNumSums, static_cast<Sums>(i % kNumSums)};
            Problem p(row_begin + rows + 8, row_begin, rows, tokens, range, seed++);
            if (seed / 2 % 2 == 0) p.gelu = kGeluTanh;
            compare(kernels, p, variant, check);
            if (range == Range::kOrdinary || range == Range::kTies) compare_plain(kernels, p, variant, check);
          }
}

}  // namespace

void test_epilogue(Report& report) {
  for (const EpilogueKernels& kernels : kKernels)
    report.kernel(kernels.name, kernels.isa, [&](Check& check) {
      if (kernels.isa == kReference) check_gelu_polynomials(check);
      check_kernels(kernels, check);
    });
}

}  // namespace secateur::tests
