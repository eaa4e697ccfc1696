// attention_f32: equal to the reference bit for bit, neighbours neither read nor written; the reference near softmax
// in double.
#include "kernels/attention_f32/attention_f32.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "kernels/reference_math.h"
#include "kernels/tests/families.h"

namespace secateur::tests {
namespace {

#define KERNEL(isa, name) {#name, isa, name},
constexpr AttentionF32Kernel kKernels[] = {
#include "kernels/attention_f32/kernels.inc"
};
#undef KERNEL

const AttentionF32Kernel& reference() { return *(std::end(kKernels) - 1); }

// In kFar all but one probability meet the floor; in kHuge scores leave the range of float32.
enum class Range { kOrdinary, kPeaked, kFlat, kEqual, kFar, kHuge };

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
// What the call has no business with is NaN.
struct Problem {
  static constexpr int32_t kHeads = 2;
  int32_t head_dim, tiles;
  int64_t stride;
  AlignedBuffer<float> query, key, value, out_f32;
  AlignedBuffer<uint8_t> out;
  AttentionF32Args args{};

  explicit Problem(const Case& c)
      : head_dim(c.head_dim),
        tiles(std::max(c.key_begin + c.keys, c.query_begin + c.queries) / kTile + 2),
        stride(static_cast<int64_t>(kHeads) * head_dim * kTile),
        query(static_cast<size_t>(tiles * stride)),
        key(query.size()),
        value(query.size()),
        out_f32(query.size()),
        out(query.size()) {
    Random random(static_cast<uint32_t>(c.head_dim * 8191 + c.key_begin * 131 + c.keys) + 77);
    for (size_t i = 0; i < query.size(); ++i) query[i] = key[i] = value[i] = out_f32[i] = NAN;
    random.fill(out, 0, 255);
    args.key_begin = c.key_begin;
    args.key_end = c.key_begin + c.keys;
    args.query_begin = c.query_begin < 0 ? args.key_begin : c.query_begin;
    args.query_end = c.query_begin < 0 ? args.key_end : c.query_begin + c.queries;
    const float size = c.range == Range::kHuge ? 1e19f : 1.0f;
    for (int32_t d = 0; d < head_dim; ++d) {
      for (int32_t t = args.key_begin; t < args.key_end; ++t) {
        key[index(t, d)] = c.range == Range::kEqual ? 0.25f * static_cast<float>(d % 7) : random.normal() * size;
        value[index(t, d)] = random.normal();
      }
      for (int32_t t = args.query_begin; t < args.query_end; ++t) query[index(t, d)] = random.normal() * size;
    }
    const int64_t head = static_cast<int64_t>(head_dim) * kTile;
    args.query = query.data() + head;
    args.key = key.data() + head;
    args.value = value.data() + head;
    args.query_stride = args.key_stride = args.out_stride = stride;
    args.head_dim = head_dim;
    const float spread = std::sqrt(static_cast<float>(head_dim));  // of a score
    const float range = c.range == Range::kPeaked ? 20.0f : c.range == Range::kFlat ? 1e-4f : 1.5f;
    args.exponent_scale = (c.range == Range::kFar ? 1e4f : range) / spread;
    args.inv_scale = random.uniform(40.0f, 400.0f);
    args.zero_point = random.integer(0, 255);
  }
  // Of the second head's channel c of token t.
  size_t index(int32_t t, int32_t c) const {
    return static_cast<size_t>(t / kTile * stride + (head_dim + c) * kTile + t % kTile);
  }
  size_t packed_index(int32_t t, int32_t c) const {
    const int32_t n = head_dim + c;
    return static_cast<size_t>(t / kTile * stride + (n / kBlock * kTile + t % kTile) * kBlock + n % kBlock);
  }
};

// Calls the kernel for queries begin .. end, with all of its scratch and no more.
void call(const AttentionF32Kernel& kernel, const Problem& p, AttentionF32Args args, int32_t begin, int32_t end,
          Check& check) {
  constexpr uint8_t kGuard = 0xff;  // four of them are a NaN
  const size_t bytes = attention_f32_scratch_bytes(p.args.key_end - p.args.key_begin);
  AlignedBuffer<uint8_t> scratch(bytes + 256);
  std::memset(scratch.data(), kGuard, scratch.bytes());
  args.query_begin = begin;
  args.query_end = end;
  args.scratch = scratch.data();
  kernel.run(args);
  for (size_t i = bytes; i < scratch.size(); ++i) EXPECT(check, scratch[i] == kGuard, "writes past its scratch");
}

AlignedBuffer<float> run_f32(const AttentionF32Kernel& kernel, const Problem& p, int32_t begin, int32_t end,
                             Check& check) {
  AlignedBuffer<float> out = copy(p.out_f32);
  AttentionF32Args args = p.args;
  args.out_f32 = out.data() + static_cast<int64_t>(p.head_dim) * kTile;
  call(kernel, p, args, begin, end, check);
  return out;
}

AlignedBuffer<uint8_t> run_u8(const AttentionF32Kernel& kernel, const Problem& p, int32_t begin, int32_t end,
                              Check& check) {
  AlignedBuffer<uint8_t> out = copy(p.out);
  AttentionF32Args args = p.args;
  args.out = out.data() + static_cast<int64_t>(p.head_dim) * kTile;
  call(kernel, p, args, begin, end, check);
  return out;
}

// Both forms for queries begin .. end: `want` where they are due, and what was there before elsewhere.
void compare(const AttentionF32Kernel& kernel, const Case& c, const Problem& p, const AlignedBuffer<float>& want,
             int32_t begin, int32_t end, Check& check) {
  const AlignedBuffer<float> got = run_f32(kernel, p, begin, end, check);
  const AlignedBuffer<uint8_t> got_u8 = run_u8(kernel, p, begin, end, check);
  AlignedBuffer<float> expected = copy(p.out_f32);
  AlignedBuffer<uint8_t> expected_u8 = copy(p.out);
  for (int32_t t = begin; t < end; ++t)
    for (int32_t d = 0; d < p.head_dim; ++d) {
      expected[p.index(t, d)] = want[p.index(t, d)];
      expected_u8[p.packed_index(t, d)] =
          reference::quantize_u8(want[p.index(t, d)], p.args.inv_scale, p.args.zero_point);
    }
  for (size_t i = 0; i < got.size(); ++i) {
    const auto row = static_cast<int32_t>(static_cast<int64_t>(i) % p.stride);
    const auto tile = static_cast<int32_t>(static_cast<int64_t>(i) / p.stride);
    EXPECT(check, std::memcmp(&got[i], &expected[i], sizeof(float)) == 0,
           "%s, queries %d .. %d: channel %d token %d is %.9g, not %.9g", c.words().c_str(), begin, end, row / kTile,
           tile * kTile + row % kTile, got[i], expected[i]);
    EXPECT(check, got_u8[i] == expected_u8[i], "%s, queries %d .. %d: channel group %d token %d byte %d is %d, not %d",
           c.words().c_str(), begin, end, row / (kTile * kBlock), tile * kTile + row / kBlock % kTile, row % kBlock,
           got_u8[i], expected_u8[i]);
  }
}

void check_case(const AttentionF32Kernel& kernel, const Case& c, Check& check) {
  const Problem p(c);
  const int32_t begin = p.args.query_begin, end = p.args.query_end;
  const AlignedBuffer<float> want = run_f32(reference(), p, begin, end, check);
  for (int32_t t = begin; t < end; ++t)
    for (int32_t d = 0; d < p.head_dim; ++d)
      EXPECT(check, std::isfinite(want[p.index(t, d)]), "%s: query %d channel %d is not finite", c.words().c_str(), t,
             d);
  compare(kernel, c, p, want, begin, end, check);
  for (int32_t t = begin; t < end; t = (t / kTile + 1) * kTile)  // as the plan calls it: tile by tile
    compare(kernel, c, p, want, t, std::min(end, (t / kTile + 1) * kTile), check);
  compare(kernel, c, p, want, begin, begin + 1, check);
  compare(kernel, c, p, want, end - 1, end, check);
  if (end - begin > 2) compare(kernel, c, p, want, begin + 1, end - 1, check);
}

// The float32 form against softmax in double.
void check_plain(const AttentionF32Kernel& kernel, const Case& c, Check& check) {
  const Problem p(c);
  const AlignedBuffer<float> got = run_f32(kernel, p, p.args.query_begin, p.args.query_end, check);
  const int32_t keys = p.args.key_end - p.args.key_begin;
  std::vector<double> score(static_cast<size_t>(keys)), slack(static_cast<size_t>(keys));
  for (int32_t t = p.args.query_begin; t < p.args.query_end; t += 3) {
    for (int32_t j = 0; j < keys; ++j) {
      double sum = 0, terms = 0;
      for (int32_t d = 0; d < p.head_dim; ++d) {
        const double term = static_cast<double>(p.query[p.index(t, d)]) * p.key[p.index(p.args.key_begin + j, d)];
        sum += term;
        terms += std::fabs(term);
      }
      score[j] = sum * p.args.exponent_scale;
      slack[j] = terms * p.args.exponent_scale * 6e-8 * p.head_dim;  // a rounding a term
    }
    const double highest = *std::max_element(score.begin(), score.end());
    const double most = *std::max_element(slack.begin(), slack.end());
    double total = 0;
    for (int32_t j = 0; j < keys; ++j) total += std::exp2(score[j] - highest);
    for (int32_t d = 0; d < p.head_dim; d += 5) {
      double want = 0, size = 0;
      for (int32_t j = 0; j < keys; ++j) {
        const double p_j = std::exp2(score[j] - highest) / total, v = p.value[p.index(p.args.key_begin + j, d)];
        want += p_j * v;
        size += p_j * std::fabs(v);
      }
      // The exponential's error and the scores' (both in numerator and denominator), and a rounding a key.
      const double allowed = size * (2 * (4.5e-6 + 0.7 * 2 * most) + 2 * 6e-8 * keys);
      const float y = got[p.index(t, d)];
      EXPECT(check, std::fabs(y - want) <= allowed, "%s: query %d channel %d is %.9g, far from %.9g", c.words().c_str(),
             t, d, y, want);
    }
  }
}

void check_kernel(const AttentionF32Kernel& kernel, Check& check) {
  constexpr int32_t kBegins[] = {0, 1, 3, 4, 8, 13, 16, 29, 31, 32, 45};
  uint32_t turn = 0;
  for (const int32_t head_dim : {4, 20, 32, 64, 128, 256})
    for (const int32_t keys : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 64, 65, 100, 128})
      for (int32_t i = 0; i < (keys <= 33 && head_dim <= 64 ? 4 : 1); ++i)
        if (head_dim <= 64 || keys <= 65)
          check_case(kernel, {head_dim, kBegins[turn++ % std::size(kBegins)], keys, Range::kOrdinary}, check);
  for (const Range range : {Range::kPeaked, Range::kFlat, Range::kEqual, Range::kFar, Range::kHuge})
    for (const int32_t keys : {1, 5, 33, 64, 130}) check_case(kernel, {64, 7, keys, range}, check);
  for (const int32_t keys : {3, 17, 40}) {
    check_case(kernel, {32, 41, keys, Range::kOrdinary, 0, 1}, check);
    check_case(kernel, {64, 5, keys, Range::kOrdinary, 70, 13}, check);
  }
  check_case(kernel, {12, 27, 512, Range::kFlat, 19, 1}, check);
  check_case(kernel, {8, 0, 512, Range::kOrdinary}, check);
  for (const Range range : {Range::kOrdinary, Range::kPeaked, Range::kFlat, Range::kEqual, Range::kFar})
    for (const int32_t keys : {1, 3, 31, 65, 128}) check_plain(kernel, {32, 5, keys, range}, check);
  check_plain(kernel, {64, 9, 512, Range::kOrdinary, 3, 9}, check);
}

}  // namespace

void test_attention_f32(Report& report) {
  for (const AttentionF32Kernel& kernel : kKernels)
    report.kernel(kernel.name, kernel.isa, [&](Check& check) { check_kernel(kernel, check); });
}

}  // namespace secateur::tests
