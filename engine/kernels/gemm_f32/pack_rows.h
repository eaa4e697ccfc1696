// Writes what packed.h describes.
#pragma once
#include <algorithm>
#include <cstring>

#include "kernels/gemm_f32/packed.h"
#include "kernels/product_f32.h"

namespace secateur::gemm_f32 {

// Rows of the next group, when `left` rows of the row block are left.
inline int32_t next_group(int32_t left, int32_t group_rows) { return left > kRestRows ? group_rows : kRestRows; }

inline int32_t pad_rows(int32_t rows, int32_t group_rows) {
  int32_t padded = 0;
  while (padded < rows) padded += next_group(rows - padded, group_rows);
  return padded;
}

// A T for each weight, which `convert` makes.
template <class T, class Convert>
PackedWeights pack_rows(const FloatMatrix& matrix, int32_t group_rows, Convert convert) {
  PackedWeights packed;
  packed.num_chunks = (matrix.cols + kChunkCols - 1) / kChunkCols;
  Header header{};
  header.rows = matrix.rows;
  header.cols = matrix.cols;
  // Chunks of equal width, so that none is a remnant.
  header.chunk_cols = (matrix.cols + packed.num_chunks - 1) / packed.num_chunks;
  header.block_rows = pad_rows(kRowBlock, group_rows);
  header.padded_rows = matrix.rows / kRowBlock * header.block_rows + pad_rows(matrix.rows % kRowBlock, group_rows);

  const size_t count = static_cast<size_t>(header.padded_rows) * matrix.cols;
  packed.data = AlignedBuffer<uint8_t>(sizeof(Header) + count * sizeof(T) + kSlackBytes);
  std::memcpy(packed.data.data(), &header, sizeof(Header));
  auto* out = reinterpret_cast<T*>(packed.data.data() + sizeof(Header));
  for (int32_t first = 0; first < matrix.cols; first += header.chunk_cols) {
    const int32_t last = std::min(matrix.cols, first + header.chunk_cols);
    for (int32_t block = 0; block < matrix.rows; block += kRowBlock) {
      const int32_t end = std::min(matrix.rows, block + kRowBlock);
      int32_t n = block;
      while (n < end) {
        const int32_t rows = next_group(end - n, group_rows);
        for (int32_t r = 0; r < std::min(rows, end - n); ++r) {
          const float* row = matrix.values + static_cast<size_t>(n + r) * matrix.cols;
          for (int32_t k = first; k < last; ++k) out[static_cast<ptrdiff_t>(k - first) * rows + r] = convert(row[k]);
        }
        out += static_cast<ptrdiff_t>(last - first) * rows;
        n += rows;
      }
    }
  }
  return packed;
}

}  // namespace secateur::gemm_f32
