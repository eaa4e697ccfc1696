#include <cstring>

#include "kernels/gemm_u8s8/gemm_u8s8.h"
#include "kernels/gemm_u8s8/packed_avx2.h"

namespace secateur {

using namespace gemm_avx2;

PackedWeights pack_gemm_avx2(const BlockMatrix& matrix) {
  const int32_t groups = (matrix.rows + kGroupRows - 1) / kGroupRows, blocks_a_row = matrix.cols / kBlock;
  const size_t starts = sizeof(int32_t) * groups * kGroupRows;
  const size_t groups_begin = (sizeof(Header) + starts + 63) / 64 * 64;
  PackedWeights packed;
  packed.data = AlignedBuffer<uint8_t>(groups_begin + sizeof(Step) * groups * blocks_a_row);
  const Header header{matrix.rows, blocks_a_row, static_cast<int64_t>(groups_begin)};
  std::memcpy(packed.data.data(), &header, sizeof(Header));
  auto* const start = reinterpret_cast<int32_t*>(packed.data.data() + sizeof(Header));
  auto* const steps = reinterpret_cast<Step*>(packed.data.data() + groups_begin);
  for (int32_t n = 0; n < matrix.rows; ++n)
    for (int32_t i = matrix.row_start[n]; i < matrix.row_start[n + 1]; ++i) {
      Step& step = steps[static_cast<ptrdiff_t>(n / kGroupRows) * blocks_a_row + matrix.block_col[i]];
      uint8_t magnitudes[kBlock], flip[kBlock];
      for (int32_t j = 0; j < kBlock; ++j) {
        const int32_t w = matrix.values[static_cast<ptrdiff_t>(i) * kBlock + j];
        magnitudes[j] = static_cast<uint8_t>(w < 0 ? -w : w);
        flip[j] = w < 0 ? kFlipNegative : kFlipPositive;
        start[n] += w < 0 ? 127 * w : 128 * w;
      }
      std::memcpy(&step.magnitudes[n % kGroupRows], magnitudes, kBlock);
      std::memcpy(&step.flip[n % kGroupRows], flip, kBlock);
    }
  return packed;
}

}  // namespace secateur
