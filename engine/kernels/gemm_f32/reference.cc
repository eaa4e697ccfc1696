#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gemm_f32/gemm_f32.h"

namespace secateur {
namespace {

// Layout: Header, then the matrix [rows][cols] row-major.
struct Header {
  int32_t rows, cols;
};

}  // namespace

PackedWeights pack_gemm_f32_reference(const FloatMatrix& matrix) {
  const size_t count = static_cast<size_t>(matrix.rows) * matrix.cols;
  PackedWeights packed;
  packed.data = AlignedBuffer<uint8_t>(sizeof(Header) + count * sizeof(float));
  const Header header{matrix.rows, matrix.cols};
  std::memcpy(packed.data.data(), &header, sizeof(Header));
  std::memcpy(packed.data.data() + sizeof(Header), matrix.values, count * sizeof(float));
  return packed;
}

void gemm_f32_reference(const ProductF32Args& args) {
  Header header;
  std::memcpy(&header, args.packed, sizeof(Header));
  const auto* w = reinterpret_cast<const float*>(args.packed + sizeof(Header));
  const int32_t begin = args.row_block * kRowBlock, end = std::min(header.rows, begin + kRowBlock);
  for (int32_t n = begin; n < end; ++n)
    for (int32_t t = 0; t < args.tokens; ++t) {
      float sum = 0.0f;
      for (int32_t k = 0; k < header.cols; ++k)
        sum = std::fma(args.x[static_cast<ptrdiff_t>(k) * kTile + t], w[static_cast<ptrdiff_t>(n) * header.cols + k],
                       sum);
      args.acc[static_cast<ptrdiff_t>(n - begin) * kTile + t] = sum;
    }
}

}  // namespace secateur
