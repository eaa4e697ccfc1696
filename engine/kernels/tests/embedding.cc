// embedding: equal to the reference bit for bit; the reference near the formula in double.
#include "kernels/embedding/embedding.h"

#include <cmath>
#include <iterator>

#include "kernels/tests/families.h"

namespace secateur::tests {
namespace {

#define KERNEL(isa, name) {#name, isa, name},
constexpr EmbeddingKernel kKernels[] = {
#include "kernels/embedding/kernels.inc"
};
#undef KERNEL

const EmbeddingKernel& reference() { return *(std::end(kKernels) - 1); }

struct Table {
  int32_t size, channels;
  AlignedBuffer<int8_t> rows;
  bool is_f32;
  AlignedBuffer<float> scale;
  std::vector<float> floats;  // at an odd address, and not a float more than there are

  Table(int32_t size, int32_t channels, bool is_f32, Random& random)
      : size(size),
        channels(channels),
        rows(static_cast<size_t>(size) * channels),
        is_f32(is_f32),
        scale(static_cast<size_t>(size)),
        floats(rows.size() + 1) {
    random.fill(rows, -127, 127);
    for (size_t i = 0; i < scale.size(); ++i) scale[i] = random.uniform(1e-4f, 1e-2f);
    for (float& v : floats) v = random.normal();
  }
  EmbeddingTable view() const {
    if (is_f32) return {nullptr, nullptr, floats.data() + 1};
    return {rows.data(), scale.data()};
  }
  double value(int32_t row, int32_t n) const {
    const size_t i = static_cast<size_t>(row) * channels + n;
    return is_f32 ? floats[i + 1] : static_cast<double>(rows[i]) * scale[row];
  }
};

// Bits of `floats` say which tables are float32: word, token type, position.
void check_size(const EmbeddingKernel& kernel, int32_t channels, int32_t tokens, int32_t floats, Check& check) {
  Random random(static_cast<uint32_t>(channels * 64 + tokens));
  const Table word(50, channels, floats & 1, random), type(2, channels, floats & 2, random);
  const Table position(40, channels, floats & 4, random);
  // Exactly `tokens` ids, so that reading more is an error a sanitizer sees.
  std::vector<int32_t> word_id, type_id, position_id;
  for (int32_t t = 0; t < tokens; ++t) {
    word_id.push_back(t == 0 ? word.size - 1 : random.integer(0, word.size - 1));
    type_id.push_back(random.integer(0, 1));
    position_id.push_back(t == 0 ? position.size - 1 : random.integer(0, position.size - 1));
  }
  const size_t guard = static_cast<size_t>(channels) * kTile;
  AlignedBuffer<float> want(guard + kTile), got(guard + kTile);
  for (size_t i = 0; i < got.size(); ++i) want[i] = got[i] = NAN;
  EmbeddingArgs args{word.view(),        type.view(), position.view(), word_id.data(), type_id.data(),
                     position_id.data(), channels,    tokens,          want.data()};
  reference().run(args);
  args.h = got.data();
  kernel.run(args);
  for (int32_t n = 0; n < channels; ++n)
    for (int32_t t = 0; t < kTile; ++t) {
      const size_t i = static_cast<size_t>(n) * kTile + t;
      if (t >= tokens) {
        EXPECT(check, std::isfinite(got[i]), "%d channels, %d tokens: h[%d][%d] is not finite", channels, tokens, n, t);
        continue;
      }
      EXPECT(check, std::memcmp(&got[i], &want[i], sizeof(float)) == 0,
             "%d channels, %d tokens: h[%d][%d] is %.9g, not %.9g", channels, tokens, n, t, got[i], want[i]);
      const double w = word.value(word_id[t], n), y = type.value(type_id[t], n), p = position.value(position_id[t], n);
      EXPECT(check, std::fabs(got[i] - (w + y + p)) <= 2e-7 * (std::fabs(w) + std::fabs(y) + std::fabs(p)),
             "%d channels, %d tokens: h[%d][%d] is %.9g, far from %.9g", channels, tokens, n, t, got[i], w + y + p);
    }
  for (size_t i = guard; i < got.size(); ++i)
    EXPECT(check, std::isnan(got[i]), "%d channels, %d tokens: writes past the tile", channels, tokens);
}

}  // namespace

void test_embedding(Report& report) {
  for (const EmbeddingKernel& kernel : kKernels)
    report.kernel(kernel.name, kernel.isa, [&](Check& check) {
      for (const int32_t channels : {4, 8, 12, 16, 20, 32, 36, 60, 64, 100, 312, 384, 768})
        for (int32_t tokens = 1; tokens <= kTile; ++tokens)
          for (const int32_t floats : {0, 7, 1 + (channels / 4 + tokens) % 6})
            check_size(kernel, channels, tokens, floats, check);
    });
}

}  // namespace secateur::tests
