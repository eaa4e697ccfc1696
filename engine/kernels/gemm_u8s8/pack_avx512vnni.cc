#include <algorithm>
#include <cstring>

#include "kernels/gemm_u8s8/gemm_u8s8.h"
#include "kernels/gemm_u8s8/packed_avx512vnni.h"

namespace secateur {

PackedWeights pack_gemm_avx512vnni(const BlockMatrix& matrix) {
  using namespace gemm_avx512vnni;
  const Header header{matrix.rows, matrix.cols, {}};
  PackedWeights packed;
  packed.data = AlignedBuffer<uint8_t>(sizeof(header) + static_cast<size_t>(matrix.rows) * matrix.cols);
  std::memcpy(packed.data.data(), &header, sizeof(header));
  for (int32_t n = 0; n < matrix.rows; ++n) {
    const int32_t first = n / kGroupRows * kGroupRows, group_rows = std::min(kGroupRows, matrix.rows - first);
    uint8_t* group = packed.data.data() + sizeof(header) + static_cast<size_t>(first) * matrix.cols;
    for (int32_t i = matrix.row_start[n]; i < matrix.row_start[n + 1]; ++i)
      std::memcpy(group + (static_cast<size_t>(matrix.block_col[i]) * group_rows + (n - first)) * kBlock,
                  matrix.values + static_cast<size_t>(i) * kBlock, kBlock);
  }
  return packed;
}

}  // namespace secateur
