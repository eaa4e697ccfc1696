#include <cstdint>

#include "kernels/gemm_f32/gemm_f32.h"
#include "kernels/gemm_f32/group_avx2.h"
#include "kernels/gemm_f32/packed.h"

namespace secateur {

void gemm_f32_6x16_avx2(const ProductF32Args& args) {
  const auto* header = reinterpret_cast<const Header*>(args.packed);
  const Section section = find_section(*header, args.chunk, args.row_block);
  const int32_t rows = section.rows, cols = section.cols;
  const float* w = reinterpret_cast<const float*>(header + 1) + section.first_weight;
  const float* x = args.x + static_cast<int64_t>(section.first_col) * kTile;
  int32_t r = 0;
  for (; rows - r > kRestRows; r += kGroupRowsAvx2, w += static_cast<int64_t>(kGroupRowsAvx2) * cols)
    multiply_tokens<kGroupRowsAvx2>(w, x, cols, rows - r, args.tokens, args.chunk > 0, args.acc + r * kTile);
  if (r < rows) multiply_tokens<kRestRows>(w, x, cols, rows - r, args.tokens, args.chunk > 0, args.acc + r * kTile);
}

}  // namespace secateur
