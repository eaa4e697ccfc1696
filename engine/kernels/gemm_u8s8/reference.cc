#include <algorithm>
#include <cstring>

#include "kernels/gemm_u8s8/gemm_u8s8.h"

namespace secateur {
namespace {

// Layout: Header, then the matrix [rows][cols] row-major.
struct Header {
  int32_t rows, cols;
};

}  // namespace

PackedWeights pack_gemm_reference(const BlockMatrix& matrix) {
  PackedWeights packed;
  packed.data = AlignedBuffer<uint8_t>(sizeof(Header) + static_cast<size_t>(matrix.rows) * matrix.cols);
  const Header header{matrix.rows, matrix.cols};
  std::memcpy(packed.data.data(), &header, sizeof(Header));
  auto* w = reinterpret_cast<int8_t*>(packed.data.data() + sizeof(Header));
  for (int32_t n = 0; n < matrix.rows; ++n)
    for (int32_t i = matrix.row_start[n]; i < matrix.row_start[n + 1]; ++i)
      std::memcpy(w + static_cast<size_t>(n) * matrix.cols + static_cast<size_t>(matrix.block_col[i]) * kBlock,
                  matrix.values + static_cast<size_t>(i) * kBlock, kBlock);
  return packed;
}

void gemm_u8s8_reference(const ProductArgs& args) {
  Header header;
  std::memcpy(&header, args.packed, sizeof(Header));
  const auto* w = reinterpret_cast<const int8_t*>(args.packed + sizeof(Header));
  const int32_t begin = args.row_block * kRowBlock, end = std::min(header.rows, begin + kRowBlock);
  for (int32_t n = begin; n < end; ++n)
    for (int32_t t = 0; t < args.tokens; ++t) {
      int32_t sum = 0;
      for (int32_t k = 0; k < header.cols; ++k)
        sum += static_cast<int32_t>(args.x[(static_cast<ptrdiff_t>(k / kBlock) * kTile + t) * kBlock + k % kBlock]) *
               w[static_cast<ptrdiff_t>(n) * header.cols + k];
      args.acc[static_cast<ptrdiff_t>(n - begin) * kTile + t] = sum;
    }
}

}  // namespace secateur
