// bfloat16: the upper half of a float32.
#pragma once
#include <bit>
#include <cstdint>
#include <vector>

#include "kernels/product_bf16.h"

namespace secateur {

inline float widen_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// Of a float that is a bfloat16.
inline uint16_t narrow_bf16(float value) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16); }

// A matrix in compressed rows whose columns are the pairs 2j, 2j + 1 of another's columns, its values the words that
// stand for the two weights: the earlier one in the high half, 0 where one is not stored.
struct PairMatrix {
  std::vector<int32_t> row_start{0};
  std::vector<uint16_t> col;
  std::vector<float> words;
  int32_t rows, cols;

  explicit PairMatrix(const FloatMatrix& matrix) : rows(matrix.rows), cols((matrix.cols + 1) / 2) {
    for (int32_t n = 0; n < rows; ++n) {
      for (int32_t i = matrix.row_start[n]; i < matrix.row_start[n + 1];) {
        const int32_t pair = matrix.col[i] / 2;
        uint32_t word = 0;
        for (; i < matrix.row_start[n + 1] && matrix.col[i] / 2 == pair; ++i)
          word |= static_cast<uint32_t>(narrow_bf16(matrix.values[i])) << (matrix.col[i] % 2 == 0 ? 16 : 0);
        col.push_back(static_cast<uint16_t>(pair));
        words.push_back(std::bit_cast<float>(word));
      }
      row_start.push_back(static_cast<int32_t>(words.size()));
    }
  }
  FloatMatrix view() const { return {rows, cols, row_start.data(), col.data(), words.data()}; }
};

}  // namespace secateur
