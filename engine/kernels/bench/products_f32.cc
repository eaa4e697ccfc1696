// Times spmm_f32, gemm_f32, spmm_bf16 and gemm_bf16. Weights are bell-shaped, pruned by size, one by one.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "kernels/bench/timing.h"
#include "kernels/bf16.h"
#include "kernels/gemm_bf16/gemm_bf16.h"
#include "kernels/gemm_f32/gemm_f32.h"
#include "kernels/peak/peak.h"
#include "kernels/spmm_bf16/spmm_bf16.h"
#include "kernels/spmm_f32/spmm_f32.h"

namespace secateur::bench {
namespace {

// Bell-shaped weights of which the smallest are missing; bfloat16 all, so that the same go to every kernel.
struct FloatWeights {
  std::vector<int32_t> row_start{0};
  std::vector<uint16_t> col;
  std::vector<float> values;
  FloatMatrix matrix;

  FloatWeights(int32_t rows, int32_t cols, double sparsity) {
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    std::vector<float> w(static_cast<size_t>(rows) * cols), sizes;
    for (float& v : w) v = widen_bf16(narrow_bf16(normal(engine)));
    for (const float v : w) sizes.push_back(std::fabs(v));
    std::sort(sizes.begin(), sizes.end());
    const float threshold = sizes[static_cast<size_t>(sparsity * static_cast<double>(sizes.size()))];
    for (int32_t n = 0; n < rows; ++n) {
      for (int32_t k = 0; k < cols; ++k) {
        const float v = w[static_cast<size_t>(n) * cols + k];
        if (std::fabs(v) < threshold) continue;
        col.push_back(static_cast<uint16_t>(k));
        values.push_back(v);
      }
      row_start.push_back(static_cast<int32_t>(col.size()));
    }
    matrix = {rows, cols, row_start.data(), col.data(), values.data()};
  }
};

// The plan's order: all tiles, chunk by chunk, pass over the weights of one row block.
double time_product_f32(const ProductF32Kernel& kernel, const PackedWeights& packed, int32_t rows, int32_t cols,
                        int32_t tokens) {
  AlignedBuffer<float> x(static_cast<size_t>(tokens + kTile - 1) / kTile * kTile * cols);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) - 8.0f;
  AlignedBuffer<float> acc(static_cast<size_t>(kRowBlock) * kTile);
  return fastest([&] {
    for (int32_t block = 0; block * kRowBlock < rows; ++block)
      for (int32_t t = 0; t < tokens; t += kTile)
        for (int32_t chunk = 0; chunk < packed.num_chunks; ++chunk)
          kernel.run({packed.data.data(), chunk, block, std::min(tokens - t, kTile),
                      x.data() + static_cast<size_t>(t) * cols, acc.data()});
  });
}

void bench_product_f32(const ProductF32Kernel& kernel, PeakType type, bool sparse) {
  const PeakKernel& best = select_peak(type, kernel.isa);
  const double peak = measure_peak(best);
  std::printf("\n%s (peak %.1f GMAC/s, %s)\n", kernel.name, peak, best.name);
  std::printf("%5s %5s %8s %4s %10s %8s %8s %6s\n", "N", "K", "sparsity", "M", "us", "eff", "exec", "peak");
  CostFit fit;
  constexpr int32_t kShapes[][2] = {{384, 384}, {1536, 384}, {384, 1536}, {768, 768}, {3072, 768}, {768, 3072}};
  for (const auto& [rows, cols] : kShapes)
    for (const double sparsity : {0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.0}) {
      if ((sparsity > 0) != sparse) continue;
      const FloatWeights weights(rows, cols, sparsity);
      const PackedWeights packed = kernel.pack(weights.matrix);
      for (const int32_t tokens : kTokens) {
        const double seconds = time_product_f32(kernel, packed, rows, cols, tokens);
        const double dense = static_cast<double>(rows) * cols * tokens / seconds * 1e-9;
        const double executed = static_cast<double>(weights.values.size()) * tokens / seconds * 1e-9;
        std::printf("%5d %5d %8.2f %4d %10.2f %8.1f %8.1f %5.0f%%\n", rows, cols, sparsity, tokens, seconds * 1e6,
                    dense, executed, peak > 0 ? 100 * executed / peak : 0.0);
        if (tokens == kTile) fit.add(rows, weights.values.size(), seconds);
      }
    }
  fit.print(kernel.name);
}

#define KERNEL(isa, name, pack, row, weight) {#name, isa, pack, name, {row, weight}},
constexpr ProductF32Kernel kSparse[] = {
#include "kernels/spmm_f32/kernels.inc"
};
constexpr ProductF32Kernel kDense[] = {
#include "kernels/gemm_f32/kernels.inc"
};
#undef KERNEL
#define KERNEL(isa, name, form, pack, row, weight) {{#name, isa, pack, name, {row, weight}}, form},
constexpr ProductBf16Kernel kSparseBf16[] = {
#include "kernels/spmm_bf16/kernels.inc"
};
constexpr ProductBf16Kernel kDenseBf16[] = {
#include "kernels/gemm_bf16/kernels.inc"
};
#undef KERNEL

bool runs_here(const ProductBf16Kernel& kernel, const std::string& part) {
  return (kernel.reads != Bf16Form::kPairs || has_bf16()) && is_wanted(kernel.product.name, kernel.product.isa, part);
}

}  // namespace

void bench_products_f32(const std::string& part) {
  for (const ProductF32Kernel& kernel : kSparse)
    if (is_wanted(kernel.name, kernel.isa, part)) bench_product_f32(kernel, kF32, true);
  for (const ProductF32Kernel& kernel : kDense)
    if (is_wanted(kernel.name, kernel.isa, part)) bench_product_f32(kernel, kF32, false);
  for (const ProductBf16Kernel& kernel : kSparseBf16)
    if (runs_here(kernel, part)) bench_product_f32(kernel.product, kBf16, true);
  for (const ProductBf16Kernel& kernel : kDenseBf16)
    if (runs_here(kernel, part)) bench_product_f32(kernel.product, kBf16, false);
}

}  // namespace secateur::bench
