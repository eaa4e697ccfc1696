// secateur_kernel_bench [part of a kernel's name]: times every kernel this CPU can run, on one thread.
//
// Weights are bell-shaped, pruned by the size of their blocks and quantized per row, as trained ones are. A time is
// the best of many rounds with warm caches. "eff" counts all multiplications of the dense matrix, "exec" those of the
// blocks that are stored (float32: of the weights, which are pruned one by one); "peak" is exec's share of what the
// same instructions do on registers (kernels/peak).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/attention_f32/attention_f32.h"
#include "kernels/bench/timing.h"
#include "kernels/dot/dot.h"
#include "kernels/embedding/embedding.h"
#include "kernels/epilogue/epilogue.h"
#include "kernels/gemm_u8s8/gemm_u8s8.h"
#include "kernels/layer_norm/layer_norm.h"
#include "kernels/peak/peak.h"
#include "kernels/quantize_rows/quantize_rows.h"
#include "kernels/round_bf16/round_bf16.h"
#include "kernels/spmm_u8s8/spmm_u8s8.h"

namespace secateur::bench {
namespace {

template <class T>
AlignedBuffer<T> random_buffer(size_t size, int32_t low, int32_t high, uint32_t seed) {
  AlignedBuffer<T> buffer(size);
  std::mt19937 engine(seed);
  for (size_t i = 0; i < size; ++i)
    buffer[i] = static_cast<T>(low + static_cast<int32_t>(engine() % static_cast<uint32_t>(high - low + 1)));
  return buffer;
}

// Bell-shaped with a sixth of the range for standard deviation, as quantized keys and values are.
AlignedBuffer<int8_t> bell_buffer(size_t size, uint32_t seed) {
  AlignedBuffer<int8_t> buffer(size);
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, 21.0f);
  for (size_t i = 0; i < size; ++i) buffer[i] = static_cast<int8_t>(std::clamp(normal(engine), -127.0f, 127.0f));
  return buffer;
}

struct Weights {
  std::vector<int32_t> row_start;
  std::vector<uint16_t> col;
  std::vector<int8_t> values;
  BlockMatrix matrix;

  Weights(int32_t rows, int32_t cols, double sparsity) : row_start{0} {
    const int32_t blocks = cols / kBlock;
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    std::vector<float> w(static_cast<size_t>(rows) * cols), size(static_cast<size_t>(rows) * blocks);
    for (float& v : w) v = normal(engine);
    for (size_t i = 0; i < w.size(); ++i) size[i / kBlock] += w[i] * w[i];
    std::vector<float> sorted = size;
    std::sort(sorted.begin(), sorted.end());
    const auto pruned = static_cast<size_t>(sparsity * static_cast<double>(sorted.size()));
    const float threshold = pruned == 0 ? -1.0f : sorted[pruned];
    for (int32_t n = 0; n < rows; ++n) {
      const float* row = &w[static_cast<size_t>(n) * cols];
      float most = 0;
      for (int32_t k = 0; k < cols; ++k) most = std::max(most, std::fabs(row[k]));
      for (int32_t b = 0; b < blocks; ++b) {
        if (size[static_cast<size_t>(n) * blocks + b] < threshold) continue;
        col.push_back(static_cast<uint16_t>(b));
        for (int32_t j = 0; j < kBlock; ++j)
          values.push_back(static_cast<int8_t>(std::nearbyint(row[b * kBlock + j] / most * 127)));
      }
      row_start.push_back(static_cast<int32_t>(col.size()));
    }
    matrix = {rows, cols, row_start.data(), col.data(), values.data()};
  }
};

double time_product(const ProductKernel& kernel, const PackedWeights& packed, int32_t rows, int32_t cols,
                    int32_t tokens) {
  const int32_t tiles = (tokens + kTile - 1) / kTile, row_blocks = (rows + kRowBlock - 1) / kRowBlock;
  const auto x = random_buffer<uint8_t>(static_cast<size_t>(tiles) * kTile * cols, 0, 255, 2);
  AlignedBuffer<int32_t> acc(static_cast<size_t>(row_blocks) * kRowBlock * kTile);
  return fastest([&] {
    for (int32_t tile = 0; tile < tiles; ++tile)
      for (int32_t chunk = 0; chunk < packed.num_chunks; ++chunk)
        for (int32_t block = 0; block < row_blocks; ++block)
          kernel.run({packed.data.data(), chunk, block, std::min(tokens - tile * kTile, kTile),
                      x.data() + static_cast<size_t>(tile) * kTile * cols,
                      acc.data() + (packed.num_chunks == 1 ? 0 : static_cast<size_t>(block) * kRowBlock * kTile)});
  });
}

void bench_product(const ProductKernel& kernel, bool sparse) {
  const PeakKernel& best = select_peak(kU8S8, kernel.isa);
  const double peak = measure_peak(best);
  std::printf("\n%s (peak %.0f GMAC/s, %s)\n", kernel.name, peak, best.name);
  std::printf("%5s %5s %8s %4s %10s %8s %8s %6s\n", "N", "K", "sparsity", "M", "us", "eff", "exec", "peak");
  CostFit fit;
  constexpr int32_t kShapes[][2] = {{384, 384}, {1536, 384}, {384, 1536}, {768, 768}, {3072, 768}, {768, 3072}};
  for (const auto& [rows, cols] : kShapes)
    for (const double sparsity : {0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.0}) {
      if ((sparsity > 0) != sparse) continue;
      const Weights weights(rows, cols, sparsity);
      const PackedWeights packed = kernel.pack(weights.matrix);
      for (const int32_t tokens : kTokens) {
        const double seconds = time_product(kernel, packed, rows, cols, tokens);
        const double dense = static_cast<double>(rows) * cols * tokens / seconds * 1e-9;
        const double executed = static_cast<double>(weights.values.size()) * tokens / seconds * 1e-9;
        std::printf("%5d %5d %8.2f %4d %10.2f %8.0f %8.0f %5.0f%%\n", rows, cols, sparsity, tokens, seconds * 1e6,
                    dense, executed, 100 * executed / peak);
        if (tokens == kTile) fit.add(rows, weights.values.size(), seconds);
      }
    }
  fit.print(kernel.name);
}

// One line a function: microseconds for each number of tokens, at one width.
template <class Call>
void print_times(const char* name, int32_t width, Call call) {
  std::printf("%-32s %5d", name, width);
  for (const int32_t tokens : kTokens) std::printf(" %10.2f", fastest([&] { call(tokens); }) * 1e6);
  std::printf("\n");
}

void bench_epilogue(const EpilogueKernels& kernels, int32_t width) {
  const auto acc = random_buffer<int32_t>(kRowBlock * kTile, -40000, 40000, 3);
  AlignedBuffer<float> acc_f32(acc.size());
  for (size_t i = 0; i < acc.size(); ++i) acc_f32[i] = static_cast<float>(acc[i]) * 1e-4f;
  const std::vector<float> scale(width, 1e-4f), bias(width, 0.1f);
  const std::vector<int32_t> start(width, 500);
  AlignedBuffer<float> row_scale(kTile);
  for (size_t t = 0; t < row_scale.size(); ++t) row_scale[t] = 1.0f;
  const size_t size = static_cast<size_t>(width) * kTokens[2];
  AlignedBuffer<uint8_t> out(size);
  AlignedBuffer<int8_t> value(size);
  AlignedBuffer<float> residual(size), out_f32(size);
  const auto run = [&](const char* part, EpilogueFn function) {
    print_times((std::string(kernels.name) + "_" + part).c_str(), width, [&](int32_t tokens) {
      for (int32_t t = 0; t < tokens; t += kTile)
        for (int32_t row = 0; row < width; row += kRowBlock) {
          const size_t tile = static_cast<size_t>(t) * width;
          function({acc.data(), scale.data(), bias.data(), row, std::min(kRowBlock, width - row),
                    std::min(tokens - t, kTile), 40.0f, 128, out.data() + tile, value.data() + t, kTokens[2],
                    residual.data() + tile, kGeluErf, acc_f32.data(), out_f32.data() + tile, start.data(),
                    row_scale.data()});
        }
    });
  };
  const auto run_all = [&](const std::string& sums, const EpilogueForms& forms) {
    run((sums + "_u8").c_str(), forms.u8);
    run((sums + "_s8").c_str(), forms.s8);
    run((sums + "_value").c_str(), forms.value);
    run((sums + "_gelu").c_str(), forms.gelu);
    run((sums + "_relu").c_str(), forms.relu);
    run((sums + "_add").c_str(), forms.add);
    run((sums + "_f32").c_str(), forms.f32);
    run((sums + "_gelu_f32").c_str(), forms.gelu_f32);
    run((sums + "_relu_f32").c_str(), forms.relu_f32);
  };
  run_all("s32", *kernels.s32);
  run_all("rows", *kernels.rows);
  run_all("f32", *kernels.f32);
}

void bench_attention(const AttentionKernel& kernel, int32_t heads, int32_t head_dim) {
  const int32_t width = heads * head_dim;
  const size_t size = static_cast<size_t>(width) * kTokens[2];
  const auto query = random_buffer<uint8_t>(size, 0, 255, 4);
  const AlignedBuffer<int8_t> key = bell_buffer(size, 5), value = bell_buffer(size, 6);
  AlignedBuffer<uint8_t> out(size), scratch(attention_scratch_bytes(kTokens[2], head_dim));
  print_times(kernel.name, width, [&](int32_t tokens) {
    const int64_t tile = static_cast<int64_t>(width) * kTile;
    for (int32_t head = 0; head < heads; ++head) {
      const size_t channel = static_cast<size_t>(head) * head_dim;
      kernel.run({query.data() + channel * kTile,
                  key.data() + channel * kTile,
                  value.data() + channel * kTokens[2],
                  out.data() + channel * kTile,
                  tile,
                  tile,
                  kTokens[2],
                  tile,
                  head_dim,
                  0,
                  tokens,
                  0,
                  tokens,
                  128,
                  1e-5f,
                  0.02f,
                  40.0f,
                  128,
                  scratch.data(),
                  nullptr});
    }
  });
}

void bench_attention_f32(const AttentionF32Kernel& kernel, int32_t heads, int32_t head_dim) {
  const int32_t width = heads * head_dim;
  AlignedBuffer<float> in(static_cast<size_t>(width) * kTokens[2]), out(in.size());
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i % 17) * 0.25f - 2.0f;
  AlignedBuffer<uint8_t> scratch(attention_f32_scratch_bytes(kTokens[2]));
  print_times(kernel.name, width, [&](int32_t tokens) {
    const int64_t tile = static_cast<int64_t>(width) * kTile;
    for (int32_t head = 0; head < heads; ++head) {
      const float* const from = in.data() + static_cast<size_t>(head) * head_dim * kTile;
      kernel.run({from, from, from, nullptr, out.data() + (from - in.data()), tile, tile, tile, head_dim, 0, tokens, 0,
                  tokens, 0.18f, 40.0f, 128, scratch.data()});
    }
  });
}

void bench_layer_norm(const LayerNormKernel& kernel, int32_t width) {
  AlignedBuffer<float> h(static_cast<size_t>(width) * kTokens[2]);
  for (size_t i = 0; i < h.size(); ++i) h[i] = static_cast<float>(i % 17) - 8.0f;
  const std::vector<float> gamma(width, 1.0f), beta(width, 0.1f);
  AlignedBuffer<uint8_t> out(h.size());
  print_times(kernel.name, width, [&](int32_t tokens) {
    for (int32_t t = 0; t < tokens; t += kTile) {
      const size_t tile = static_cast<size_t>(t) * width;
      kernel.run({h.data() + tile, width, std::min(tokens - t, kTile), gamma.data(), beta.data(), 1e-12f, 40.0f, 128,
                  out.data() + tile});
    }
  });
}

void bench_quantize_rows(const QuantizeRowsKernel& kernel, int32_t width) {
  const size_t size = static_cast<size_t>(width) * kTokens[2];
  AlignedBuffer<float> x(size), scale(kTokens[2]);
  AlignedBuffer<uint8_t> out(size);
  const AlignedBuffer<int8_t> bell = bell_buffer(size, 9);
  for (size_t i = 0; i < size; ++i) x[i] = static_cast<float>(bell[i]) * 0.01f;
  print_times(kernel.name, width, [&](int32_t tokens) {
    for (int32_t t = 0; t < tokens; t += kTile) {
      const size_t tile = static_cast<size_t>(t) * width;
      kernel.run({x.data() + tile, width, nullptr, std::min(tokens - t, kTile), out.data() + tile, scale.data() + t});
    }
  });
}

void bench_round(const RoundBf16Kernel& kernel, int32_t width) {
  AlignedBuffer<float> x(static_cast<size_t>(width) * kTokens[2]), out(x.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) * 0.3f - 2.0f;
  print_times(kernel.name, width, [&](int32_t tokens) {
    for (int32_t t = 0; t < tokens; t += kTile) {
      const size_t tile = static_cast<size_t>(t) * width;
      kernel.run({x.data() + tile, width, std::min(tokens - t, kTile), out.data() + tile});
    }
  });
}

void bench_embedding(const EmbeddingKernel& kernel, int32_t width) {
  constexpr int32_t kRows = 4096;
  const auto rows = random_buffer<int8_t>(static_cast<size_t>(kRows) * width, -127, 127, 7);
  const std::vector<float> scale(kRows, 0.01f);
  const EmbeddingTable table{rows.data(), scale.data()};
  const auto ids = random_buffer<int32_t>(kTokens[2], 0, kRows - 1, 8);
  const AlignedBuffer<int32_t> zeros(kTokens[2]);
  AlignedBuffer<float> h(static_cast<size_t>(width) * kTokens[2]);
  print_times(kernel.name, width, [&](int32_t tokens) {
    for (int32_t t = 0; t < tokens; t += kTile)
      kernel.run({table, table, table, ids.data() + t, zeros.data(), ids.data(), width, std::min(tokens - t, kTile),
                  h.data() + static_cast<size_t>(t) * width});
  });
}

// The fill-mask head's share of a vocabulary: far more weights than the caches hold.
void bench_dot(const DotKernel& kernel, int32_t width) {
  constexpr int32_t kRows = 30528, kBlockRows = 64;
  const size_t count = static_cast<size_t>(kRows) * width;
  const AlignedBuffer<float> w(count), x(static_cast<size_t>(kTile) * width);
  const AlignedBuffer<int8_t> w_s8(count);
  AlignedBuffer<float> y(static_cast<size_t>(kRows) * kTile);
  for (const bool int8 : {false, true}) {
    std::printf("%-32s %5d", (std::string(kernel.name) + (int8 ? " int8" : " f32")).c_str(), width);
    for (const int32_t tokens : {1, 4, 32}) {
      const double seconds = fastest([&] {
        for (int32_t n = 0; n < kRows; n += kBlockRows) {
          const size_t at = static_cast<size_t>(n) * width;
          kernel.run({x.data(), int8 ? nullptr : w.data() + at, int8 ? w_s8.data() + at : nullptr, width, kBlockRows,
                      tokens, y.data() + n, kRows, 1});
        }
      });
      std::printf(" %10.2f", seconds * 1e6);
    }
    std::printf(" (M = 1, 4, 32; 30528 rows)\n");
  }
}

#define KERNEL(isa, name, pack, row, weight) {#name, isa, pack, name, {row, weight}},
constexpr ProductKernel kSparse[] = {
#include "kernels/spmm_u8s8/kernels.inc"
};
constexpr ProductKernel kDense[] = {
#include "kernels/gemm_u8s8/kernels.inc"
};
#undef KERNEL
#define KERNEL(isa, name) {#name, isa, &name##_s32, &name##_rows, &name##_f32},
constexpr EpilogueKernels kEpilogue[] = {
#include "kernels/epilogue/kernels.inc"
};
#undef KERNEL
#define KERNEL(isa, name) {#name, isa, name},
constexpr AttentionKernel kAttention[] = {
#include "kernels/attention/kernels.inc"
};
constexpr AttentionF32Kernel kAttentionF32[] = {
#include "kernels/attention_f32/kernels.inc"
};
constexpr LayerNormKernel kLayerNorm[] = {
#include "kernels/layer_norm/kernels.inc"
};
constexpr EmbeddingKernel kEmbedding[] = {
#include "kernels/embedding/kernels.inc"
};
constexpr QuantizeRowsKernel kQuantizeRows[] = {
#include "kernels/quantize_rows/kernels.inc"
};
constexpr DotKernel kDot[] = {
#include "kernels/dot/kernels.inc"
};
#undef KERNEL

#define KERNEL(isa, name, form) {#name, isa, form, name},
constexpr RoundBf16Kernel kRound[] = {
#include "kernels/round_bf16/kernels.inc"
};
#undef KERNEL

int run(const std::string& part) {
  const auto for_each = [&](const auto& kernels, auto bench) {
    for (const auto& kernel : kernels)
      if (is_wanted(kernel.name, kernel.isa, part)) bench(kernel);
  };
  std::printf("%s\n", cpu_brand().c_str());
  for_each(kSparse, [](const ProductKernel& kernel) { bench_product(kernel, true); });
  for_each(kDense, [](const ProductKernel& kernel) { bench_product(kernel, false); });
  bench_products_f32(part);
  std::printf("\n%-32s %5s %10s %10s %10s\n", "us", "width", "M = 8", "M = 32", "M = 128");
  for (const int32_t width : {384, 768}) {
    for_each(kEpilogue, [&](const EpilogueKernels& kernels) { bench_epilogue(kernels, width); });
    for_each(kAttention, [&](const AttentionKernel& kernel) { bench_attention(kernel, 12, width / 12); });
    for_each(kAttentionF32, [&](const AttentionF32Kernel& kernel) { bench_attention_f32(kernel, 12, width / 12); });
    for_each(kLayerNorm, [&](const LayerNormKernel& kernel) { bench_layer_norm(kernel, width); });
    for_each(kQuantizeRows, [&](const QuantizeRowsKernel& kernel) { bench_quantize_rows(kernel, width); });
    for_each(kRound, [&](const RoundBf16Kernel& kernel) { bench_round(kernel, width); });
    for_each(kEmbedding, [&](const EmbeddingKernel& kernel) { bench_embedding(kernel, width); });
    for_each(kDot, [&](const DotKernel& kernel) { bench_dot(kernel, width); });
  }
  return 0;
}

}  // namespace
}  // namespace secateur::bench

int main(int argc, char** argv) { return secateur::bench::run(argc > 1 ? argv[1] : ""); }
