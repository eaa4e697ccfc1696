// attention: equal to the reference bit for bit, neighbours untouched; the reference near softmax in double.
#include "kernels/attention/attention.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "kernels/reference_math.h"
#include "kernels/tests/families.h"

namespace secateur::tests {
namespace {

#define KERNEL(isa, name) {#name, isa, name},
constexpr AttentionKernel kKernels[] = {
#include "kernels/attention/kernels.inc"
};
#undef KERNEL

const AttentionKernel& reference() { return *(std::end(kKernels) - 1); }

// The products of two words fit int16 in kLight and in part of kMixed; in kEdge they do by one, in kOver not by one.
enum class Range { kOrdinary, kPeaked, kFlat, kMost, kLeast, kEqual, kLight, kMixed, kEdge, kOver };

struct Case {
  int32_t head_dim, key_begin, keys;
  Range range;
  int32_t query_begin = -1, queries = 0;  // -1: the sequence's own tokens; else rows of another batch (first tokens)

  std::string words() const {
    char text[96];
    std::snprintf(text, sizeof(text), "head_dim %d, keys %d .. %d, range %d", head_dim, key_begin, key_begin + keys,
                  static_cast<int>(range));
    return text;
  }
};

// Two heads of a batch whose sequence key_begin .. key_end has neighbours on both sides; the second head is used.
struct Problem {
  static constexpr int32_t kHeads = 2;
  int32_t head_dim, tiles;
  int64_t stride, value_stride;
  AlignedBuffer<uint8_t> query, out;
  AlignedBuffer<int8_t> key, value;
  AttentionArgs args{};

  explicit Problem(const Case& c)
      : head_dim(c.head_dim),
        tiles(std::max(c.key_begin + c.keys, c.query_begin + c.queries) / kTile + 2),
        stride(static_cast<int64_t>(kHeads) * head_dim * kTile),
        value_stride(static_cast<int64_t>(tiles) * kTile),
        query(static_cast<size_t>(tiles * stride)),
        out(static_cast<size_t>(tiles * stride)),
        key(static_cast<size_t>(tiles * stride)),
        value(static_cast<size_t>(kHeads * head_dim * value_stride)) {
    Random random(static_cast<uint32_t>(c.head_dim * 8191 + c.key_begin * 131 + c.keys) + 77);
    const bool edge = c.range == Range::kEdge || c.range == Range::kOver;
    const bool highest = c.range == Range::kMost || c.range == Range::kLeast || edge;
    random.fill(query, highest ? 255 : 0, 255);
    random.fill(key, -127, 127);
    random.fill(value, -127, 127);
    random.fill(out, 0, 255);
    for (int32_t t = c.key_begin; t < c.key_begin + c.keys; ++t)
      for (int32_t n = 0; n < kHeads * head_dim; ++n) {
        const size_t packed = static_cast<size_t>(t / kTile * stride) +
                              (static_cast<size_t>(n / kBlock) * kTile + t % kTile) * kBlock + n % kBlock;
        int8_t& v = value[static_cast<size_t>(n * value_stride + t)];
        if (c.range == Range::kMost) key[packed] = v = 127;
        if (c.range == Range::kLeast) key[packed] = v = -127;
        if (c.range == Range::kEqual) key[packed] = static_cast<int8_t>(n % 100);
        const bool light = c.range == Range::kLight || c.range == Range::kMixed;
        if (light && (c.range == Range::kLight || t % 3 != 0)) key[packed] = static_cast<int8_t>(key[packed] / 4);
        if (light && (c.range == Range::kLight || (n + t / kTile) % 2 != 0)) v = static_cast<int8_t>(v / 4);
        if (edge) {  // a half of two words holds weights 0, 1, 4, 5 or 2, 3, 6, 7 of eight: 128 in all, or 129
          const auto weight = [&](int32_t i) {
            return c.range == Range::kOver && (i % 8 == 4 || i % 8 == 6) ? 33 : 32;
          };
          key[packed] = static_cast<int8_t>(t % 2 != 0 ? weight(n) : -weight(n));
          v = static_cast<int8_t>(n % 2 != 0 ? weight(t) : -weight(t));
        }
      }
    const int64_t head = static_cast<int64_t>(head_dim) * kTile;
    args.query = query.data() + head;
    args.key = key.data() + head;
    args.value = value.data() + static_cast<int64_t>(head_dim) * value_stride;
    args.out = out.data() + head;
    args.query_stride = args.key_stride = args.out_stride = stride;
    args.value_stride = value_stride;
    args.head_dim = head_dim;
    args.key_begin = c.key_begin;
    args.key_end = c.key_begin + c.keys;
    args.query_begin = c.query_begin < 0 ? args.key_begin : c.query_begin;
    args.query_end = c.query_begin < 0 ? args.key_end : c.query_begin + c.queries;
    args.query_zero_point = c.range == Range::kMost ? 0 : c.range == Range::kLeast ? 255 : random.integer(0, 255);
    const float spread = 74.0f * 73.0f * std::sqrt(static_cast<float>(head_dim));  // of a random score
    args.exponent_scale = (c.range == Range::kPeaked ? 300.0f : c.range == Range::kFlat ? 1e-4f : 3.0f) / spread;
    args.value_scale = random.uniform(0.01f, 0.03f);
    args.inv_scale = random.uniform(40.0f, 400.0f);
    args.zero_point = random.integer(0, 255);
  }
};

size_t packed_index(const Problem& p, int32_t t, int32_t c) {
  const int32_t n = p.head_dim + c;
  return static_cast<size_t>(t / kTile * p.stride) + (static_cast<size_t>(n / kBlock) * kTile + t % kTile) * kBlock +
         n % kBlock;
}

// Calls the kernel for queries begin .. end, with all of its scratch and no more.
void call(const AttentionKernel& kernel, const Problem& p, AttentionArgs args, int32_t begin, int32_t end,
          Check& check) {
  constexpr uint8_t kGuard = 0xa5;
  const size_t bytes = attention_scratch_bytes(p.args.key_end - p.args.key_begin, p.head_dim);
  AlignedBuffer<uint8_t> scratch(bytes + 256);
  std::memset(scratch.data(), kGuard, scratch.bytes());
  args.query_begin = begin;
  args.query_end = end;
  args.scratch = scratch.data();
  kernel.run(args);
  for (size_t i = bytes; i < scratch.size(); ++i) EXPECT(check, scratch[i] == kGuard, "writes past its scratch");
}

// The whole output buffer after a call for queries begin .. end; the problem's own is left as it was.
AlignedBuffer<uint8_t> run(const AttentionKernel& kernel, const Problem& p, int32_t begin, int32_t end, Check& check) {
  AlignedBuffer<uint8_t> out = copy(p.out);
  AttentionArgs args = p.args;
  args.out = out.data() + (p.args.out - p.out.data());
  call(kernel, p, args, begin, end, check);
  return out;
}

// The float32 form of the same: NaN where nothing was written.
AlignedBuffer<float> run_f32(const AttentionKernel& kernel, const Problem& p, int32_t begin, int32_t end,
                             Check& check) {
  AlignedBuffer<float> out(p.out.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = NAN;
  AttentionArgs args = p.args;
  args.out = nullptr;
  args.out_f32 = out.data() + (p.args.out - p.out.data());
  call(kernel, p, args, begin, end, check);
  return out;
}

// The float32 form becomes, quantized, the bytes that `want` holds, and has the reference's bits.
void compare_f32(const AttentionKernel& kernel, const Case& c, const Problem& p, const AlignedBuffer<uint8_t>& want,
                 int32_t begin, int32_t end, Check& check) {
  const AlignedBuffer<float> expected = run_f32(reference(), p, begin, end, check);
  const AlignedBuffer<float> got = run_f32(kernel, p, begin, end, check);
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT(check,
           std::memcmp(&got[i], &expected[i], sizeof(float)) == 0 || (std::isnan(got[i]) && std::isnan(expected[i])),
           "%s, queries %d .. %d: float %d is %.9g, not %.9g", c.words().c_str(), begin, end, static_cast<int>(i),
           got[i], expected[i]);
  for (int32_t t = begin; t < end; ++t)
    for (int32_t d = 0; d < p.head_dim; ++d) {
      const float y = got[static_cast<size_t>(t / kTile * p.stride + (p.head_dim + d) * kTile + t % kTile)];
      const int32_t q = reference::quantize_u8(y, p.args.inv_scale, p.args.zero_point);
      EXPECT(check, q == want[packed_index(p, t, d)], "%s: query %d channel %d is %.9g, which is %d and not %d",
             c.words().c_str(), t, d, y, q, want[packed_index(p, t, d)]);
    }
}

void compare(const AttentionKernel& kernel, const Case& c, const Problem& p, const AlignedBuffer<uint8_t>& want,
             int32_t begin, int32_t end, Check& check) {
  const AlignedBuffer<uint8_t> got = run(kernel, p, begin, end, check);
  AlignedBuffer<uint8_t> expected = copy(p.out);
  for (int32_t t = begin; t < end; ++t)
    for (int32_t d = 0; d < p.head_dim; ++d) expected[packed_index(p, t, d)] = want[packed_index(p, t, d)];
  for (size_t i = 0; i < got.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i) % p.stride;
    EXPECT(check, got[i] == expected[i], "%s, queries %d .. %d: channel group %d token %d byte %d is %d, not %d",
           c.words().c_str(), begin, end, static_cast<int>(row / (kTile * kBlock)),
           static_cast<int>(i / p.stride * kTile + row / kBlock % kTile), static_cast<int>(i % kBlock), got[i],
           expected[i]);
  }
}

void check_case(const AttentionKernel& kernel, const Case& c, Check& check) {
  const Problem p(c);
  const int32_t begin = p.args.query_begin, end = p.args.query_end;
  const AlignedBuffer<uint8_t> want = run(reference(), p, begin, end, check);
  compare(kernel, c, p, want, begin, end, check);
  for (int32_t t = begin; t < end; t = (t / kTile + 1) * kTile)  // as the plan calls it: tile by tile
    compare(kernel, c, p, want, t, std::min(end, (t / kTile + 1) * kTile), check);
  compare_f32(kernel, c, p, want, begin, end, check);
  compare(kernel, c, p, want, begin, begin + 1, check);
  compare(kernel, c, p, want, end - 1, end, check);
  if (end - begin > 2) compare(kernel, c, p, want, begin + 1, end - 1, check);
}

// One output by softmax in double. `slack` grows where rounding a probability is a close call.
double plain_output(const Problem& p, int32_t t, int32_t d, double& slack) {
  const auto query = [&](int32_t c) { return p.query[packed_index(p, t, c)] - p.args.query_zero_point; };
  const int32_t begin = p.args.key_begin, keys = p.args.key_end - begin;
  std::vector<double> score(static_cast<size_t>(keys));
  for (int32_t j = 0; j < keys; ++j)
    for (int32_t c = 0; c < p.head_dim; ++c) score[j] += query(c) * p.key[packed_index(p, begin + j, c)];
  const double highest = *std::max_element(score.begin(), score.end());
  double total = 0, sum = 0, close = 0;
  for (int32_t j = 0; j < keys; ++j) {
    const double exact = 255.0 * std::exp2((score[j] - highest) * p.args.exponent_scale);
    close += std::fabs(exact - std::floor(exact) - 0.5) < 3e-3 ? 1 : 0;
    total += std::nearbyint(exact);
    sum += std::nearbyint(exact) * p.args.value[d * p.value_stride + begin + j];
  }
  const double steps = static_cast<double>(p.args.value_scale) * p.args.inv_scale;
  slack = 0.501 + close * 254.0 / total * steps;
  return std::clamp(sum / total * steps + p.args.zero_point, 0.0, 255.0);
}

void check_plain(const AttentionKernel& kernel, const Case& c, Check& check) {
  const Problem p(c);
  const AlignedBuffer<uint8_t> got = run(kernel, p, p.args.key_begin, p.args.key_end, check);
  for (int32_t t = p.args.key_begin; t < p.args.key_end; t += 3)
    for (int32_t d = 0; d < p.head_dim; d += 5) {
      double slack = 0;
      const double want = plain_output(p, t, d, slack);
      const int32_t q = got[packed_index(p, t, d)];
      EXPECT(check, std::fabs(q - want) <= slack, "%s: query %d channel %d is %d, far from %.4f", c.words().c_str(), t,
             d, q, want);
    }
}

void check_exponential(Check& check) {
  for (int32_t i = -50000; i <= 50000; ++i) {
    const float f = static_cast<float>(i) * 1e-5f;
    float poly = kExp2x255[kExpDegree];
    for (int32_t d = kExpDegree - 1; d >= 0; --d) poly = std::fma(poly, f, kExp2x255[d]);
    const double error = std::fabs(poly / (255.0 * std::exp2(static_cast<double>(f))) - 1.0);
    EXPECT(check, error < 4.5e-6, "the exponential is off by %.3g at %g", error, f);
  }
}

void check_kernel(const AttentionKernel& kernel, Check& check) {
  constexpr int32_t kBegins[] = {0, 1, 3, 4, 8, 13, 16, 29, 31, 32, 45};
  uint32_t turn = 0;
  for (const int32_t head_dim : {4, 20, 32, 64, 128, 256})
    for (const int32_t keys : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 64, 65, 100, 128})
      for (int32_t i = 0; i < (keys <= 33 && head_dim <= 64 ? 4 : 1); ++i)
        check_case(kernel, {head_dim, kBegins[turn++ % std::size(kBegins)], keys, Range::kOrdinary}, check);
  for (const Range range : {Range::kPeaked, Range::kFlat, Range::kMost, Range::kLeast, Range::kEqual, Range::kLight,
                            Range::kMixed, Range::kEdge, Range::kOver})
    for (const int32_t keys : {1, 5, 33, 64, 130}) check_case(kernel, {64, 7, keys, range}, check);
  for (const int32_t keys : {3, 17, 40}) {
    check_case(kernel, {32, 41, keys, Range::kOrdinary, 0, 1}, check);
    check_case(kernel, {64, 5, keys, Range::kOrdinary, 70, 13}, check);
  }
  check_case(kernel, {256, 3, 37, Range::kMost}, check);
  check_case(kernel, {256, 3, 37, Range::kLeast}, check);
  check_case(kernel, {32, 0, 512, Range::kOrdinary}, check);
  for (const Range range : {Range::kLight, Range::kMixed, Range::kEdge, Range::kOver})
    for (const int32_t head_dim : {4, 20, 32, 128})
      for (const int32_t keys : {1, 4, 31, 32, 70, 128}) check_case(kernel, {head_dim, 13, keys, range}, check);
  check_case(kernel, {8, 27, 512, Range::kFlat}, check);
  for (const Range range :
       {Range::kOrdinary, Range::kPeaked, Range::kFlat, Range::kEqual, Range::kLight, Range::kMixed})
    for (const int32_t keys : {1, 3, 31, 65, 128}) check_plain(kernel, {32, 5, keys, range}, check);
}

}  // namespace

void test_attention(Report& report) {
  for (const AttentionKernel& kernel : kKernels)
    report.kernel(kernel.name, kernel.isa, [&](Check& check) {
      if (kernel.isa == kReference) check_exponential(check);
      check_kernel(kernel, check);
    });
}

}  // namespace secateur::tests
