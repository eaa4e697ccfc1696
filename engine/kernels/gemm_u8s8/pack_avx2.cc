#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/gemm_u8s8/gemm_u8s8.h"
#include "kernels/gemm_u8s8/packed_avx2.h"

namespace secateur {
namespace {

using namespace gemm_avx2;

// The four rows of a group; rows past the last are zeros.
class Rows {
 public:
  Rows(const BlockMatrix& matrix, int32_t group) : blocks_(matrix.cols / kBlock) {
    weights_.resize(static_cast<size_t>(kGroupRows) * matrix.cols);
    for (int32_t r = 0; r < kGroupRows && group * kGroupRows + r < matrix.rows; ++r) {
      const int32_t n = group * kGroupRows + r;
      for (int32_t i = matrix.row_start[n]; i < matrix.row_start[n + 1]; ++i)
        std::memcpy(at(r, matrix.block_col[i]), matrix.values + static_cast<ptrdiff_t>(i) * kBlock, kBlock);
    }
  }
  int8_t* at(int32_t row, int32_t block) {
    return weights_.data() + (static_cast<ptrdiff_t>(row) * blocks_ + block) * 4;
  }

  // Whether two blocks may be added in int16 before they are widened, in all rows.
  bool fit(int32_t a, int32_t b) {
    for (int32_t r = 0; r < kGroupRows; ++r)
      for (int32_t half = 0; half < kBlock; half += 2) {
        int32_t positive = 0, negative = 0;
        for (const int8_t* w : {at(r, a) + half, at(r, b) + half})
          for (int32_t j = 0; j < 2; ++j) (w[j] > 0 ? positive : negative) += w[j];
        if (positive > kPairLimit || negative < -kPairLimit) return false;
      }
    return true;
  }

 private:
  int32_t blocks_;
  std::vector<int8_t> weights_;
};

Pair make_pair(Rows& rows, int32_t a, int32_t b) {
  Pair pair{{}, {}, {a, b}};
  for (int32_t r = 0; r < kGroupRows; ++r) {
    std::memcpy(&pair.first[r], rows.at(r, a), kBlock);
    std::memcpy(&pair.second[r], rows.at(r, b), kBlock);
  }
  return pair;
}

Single make_single(Rows& rows, int32_t block, int32_t* start) {
  Single single{{}, {}, block};
  for (int32_t r = 0; r < kGroupRows; ++r) {
    uint8_t magnitudes[kBlock], flip[kBlock];
    for (int32_t j = 0; j < kBlock; ++j) {
      const int32_t w = rows.at(r, block)[j];
      magnitudes[j] = static_cast<uint8_t>(w < 0 ? -w : w);
      flip[j] = w < 0 ? kFlipNegative : kFlipPositive;
      start[r] += w < 0 ? 127 * w : 128 * w;
    }
    std::memcpy(&single.magnitudes[r], magnitudes, kBlock);
    std::memcpy(&single.flip[r], flip, kBlock);
  }
  return single;
}

template <class T>
void append(std::vector<uint8_t>& out, const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  out.insert(out.end(), bytes, bytes + values.size() * sizeof(T));
}

}  // namespace

PackedWeights pack_gemm_avx2(const BlockMatrix& matrix) {
  const int32_t num_groups = (matrix.rows + kGroupRows - 1) / kGroupRows, blocks = matrix.cols / kBlock;
  const size_t starts = sizeof(int32_t) * num_groups * kGroupRows;
  const Header header{matrix.rows, 0, static_cast<int64_t>(sizeof(Header) + starts)};
  const size_t stream_begin = sizeof(Header) + starts + sizeof(Group) * num_groups;
  std::vector<int32_t> start(static_cast<size_t>(num_groups) * kGroupRows);
  std::vector<Group> groups;
  std::vector<uint8_t> stream;
  for (int32_t g = 0; g < num_groups; ++g) {
    Rows rows(matrix, g);
    std::vector<Pair> pairs;
    std::vector<Single> singles;
    std::vector<int32_t> left(static_cast<size_t>(blocks));
    std::iota(left.begin(), left.end(), 0);
    while (!left.empty()) {
      const int32_t block = left.front();
      left.erase(left.begin());
      const auto partner =
          std::find_if(left.begin(), left.end(), [&](int32_t other) { return rows.fit(block, other); });
      if (partner != left.end()) {
        pairs.push_back(make_pair(rows, block, *partner));
        left.erase(partner);
      } else {
        singles.push_back(make_single(rows, block, &start[static_cast<size_t>(g) * kGroupRows]));
      }
    }
    groups.push_back({static_cast<int64_t>(stream_begin + stream.size()), static_cast<int32_t>(pairs.size()),
                      static_cast<int32_t>(singles.size())});
    append(stream, pairs);
    append(stream, singles);
  }
  PackedWeights packed;
  packed.data = AlignedBuffer<uint8_t>(stream_begin + stream.size());
  uint8_t* const data = packed.data.data();
  std::memcpy(data, &header, sizeof(Header));
  std::memcpy(data + sizeof(Header), start.data(), starts);
  std::memcpy(data + header.groups_begin, groups.data(), sizeof(Group) * groups.size());
  std::memcpy(data + stream_begin, stream.data(), stream.size());
  return packed;
}

}  // namespace secateur
