#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/spmm_u8s8/packed_avx2.h"
#include "kernels/spmm_u8s8/spmm_u8s8.h"

namespace secateur {
namespace {

using namespace spmm_avx2;

// The share of a block in the two int16 sums of a pair: positive and negative weights of each half, 16 bits each.
uint64_t demand(const int8_t* w) {
  const auto positive = [](int32_t v) { return static_cast<uint64_t>(std::max(v, 0)); };
  return (positive(w[0]) + positive(w[1])) | (positive(-w[0]) + positive(-w[1])) << 16 |
         (positive(w[2]) + positive(w[3])) << 32 | (positive(-w[2]) + positive(-w[3])) << 48;
}

bool fits(uint64_t demands) {
  constexpr uint64_t kEach = 0x0001000100010001;
  return ((demands + (0x8000 - 1 - kPairLimit) * kEach) & 0x8000 * kEach) == 0;
}

// Blocks of one row and chunk, as indices into the matrix.
struct PackedRow {
  int32_t index;
  std::vector<std::pair<int32_t, int32_t>> pairs;
  std::vector<int32_t> singles;
};

// Pairs blocks that fit together, the ones with the fewest partners first (on 384 x 384 weights as many pairs as an
// exact matching to one in a thousand; taking the largest first leaves 6 % of the pairs behind).
PackedRow match(const BlockMatrix& matrix, int32_t index, int32_t begin, int32_t end) {
  PackedRow row{index, {}, {}};
  const int32_t count = end - begin;
  std::vector<uint64_t> demands(count);
  for (int32_t i = 0; i < count; ++i) demands[i] = demand(matrix.values + static_cast<ptrdiff_t>(begin + i) * kBlock);
  const auto partners = [&](int32_t i, int32_t j) { return i != j && fits(demands[i] + demands[j]); };
  std::vector<int32_t> degree(count), left;
  for (int32_t i = 0; i < count; ++i) {
    for (int32_t j = 0; j < count; ++j) degree[i] += partners(i, j);
    (degree[i] > 0 ? left : row.singles).push_back(i);
  }
  const auto fewest = [&](int32_t a, int32_t b) { return degree[a] < degree[b]; };
  const auto take = [&](int32_t i) {
    left.erase(std::find(left.begin(), left.end(), i));
    for (const int32_t j : left) degree[j] -= partners(i, j);
  };
  while (!left.empty()) {
    const int32_t first = *std::min_element(left.begin(), left.end(), fewest);
    if (degree[first] == 0) {
      row.singles.push_back(first);
      take(first);
      continue;
    }
    int32_t second = -1;
    for (const int32_t j : left)
      if (partners(first, j) && (second < 0 || fewest(j, second))) second = j;
    take(first);
    take(second);
    row.pairs.push_back(std::minmax(first, second));
  }
  for (auto& [a, b] : row.pairs) a += begin, b += begin;
  for (int32_t& i : row.singles) i += begin;
  std::sort(row.pairs.begin(), row.pairs.end());
  std::sort(row.singles.begin(), row.singles.end());
  return row;
}

class Writer {
 public:
  explicit Writer(std::vector<uint8_t>& out) : out_(out) {}

  void row(const BlockMatrix& matrix, const PackedRow& row, bool is_last) {
    Row head{0, static_cast<uint16_t>(row.pairs.size()), static_cast<uint16_t>(row.singles.size()),
             static_cast<uint16_t>(row.index), is_last};
    for (const int32_t i : row.singles)
      for (int32_t j = 0; j < kBlock; ++j) {
        const int32_t w = matrix.values[static_cast<ptrdiff_t>(i) * kBlock + j];
        head.start += w < 0 ? 127 * w : 128 * w;
      }
    append(head);
    for (const auto& [a, b] : row.pairs) {
      Pair pair{{offset(matrix, a), offset(matrix, b)}, {}};
      std::memcpy(&pair.weights[0], matrix.values + static_cast<ptrdiff_t>(a) * kBlock, kBlock);
      std::memcpy(&pair.weights[1], matrix.values + static_cast<ptrdiff_t>(b) * kBlock, kBlock);
      append(pair);
    }
    for (const int32_t i : row.singles) {
      uint8_t magnitudes[kBlock], flip[kBlock];
      for (int32_t j = 0; j < kBlock; ++j) {
        const int32_t w = matrix.values[static_cast<ptrdiff_t>(i) * kBlock + j];
        magnitudes[j] = static_cast<uint8_t>(w < 0 ? -w : w);
        flip[j] = w < 0 ? kFlipNegative : kFlipPositive;
      }
      Single single{offset(matrix, i), 0, 0, 0};
      std::memcpy(&single.magnitudes, magnitudes, kBlock);
      std::memcpy(&single.flip, flip, kBlock);
      append(single);
    }
  }

 private:
  static uint16_t offset(const BlockMatrix& matrix, int32_t block) {
    return static_cast<uint16_t>(matrix.block_col[block] * (kTile * kBlock / kOffsetUnit));
  }

  template <class T>
  void append(const T& value) {
    static_assert(sizeof(T) == 12);
    const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
    out_.insert(out_.end(), bytes, bytes + sizeof(T));
  }

  std::vector<uint8_t>& out_;
};

}  // namespace

PackedWeights pack_spmm_avx2(const BlockMatrix& matrix) {
  const int32_t num_row_blocks = (matrix.rows + kRowBlock - 1) / kRowBlock;
  PackedWeights packed;
  packed.num_chunks = std::max(1, (matrix.cols + kChunkCols - 1) / kChunkCols);
  // Chunks of equal width, so that none is a remnant.
  const int32_t blocks_a_chunk = (matrix.cols / kBlock + packed.num_chunks - 1) / packed.num_chunks;

  const Header header{num_row_blocks, 0};
  std::vector<uint64_t> sections;
  const size_t sections_begin = sizeof(Header) + sizeof(uint64_t) * packed.num_chunks * num_row_blocks;
  std::vector<uint8_t> stream;
  Writer writer(stream);
  for (int32_t chunk = 0; chunk < packed.num_chunks; ++chunk)
    for (int32_t row_block = 0; row_block < num_row_blocks; ++row_block) {
      sections.push_back(sections_begin + stream.size());
      std::vector<PackedRow> rows;
      for (int32_t n = row_block * kRowBlock; n < std::min(matrix.rows, (row_block + 1) * kRowBlock); ++n) {
        const uint16_t* cols = matrix.block_col;
        const uint16_t* end = cols + matrix.row_start[n + 1];
        const uint16_t* first = std::lower_bound(cols + matrix.row_start[n], end, chunk * blocks_a_chunk);
        const uint16_t* last = std::lower_bound(first, end, (chunk + 1) * blocks_a_chunk);
        rows.push_back(match(matrix, n - row_block * kRowBlock, static_cast<int32_t>(first - cols),
                             static_cast<int32_t>(last - cols)));
      }
      std::stable_sort(rows.begin(), rows.end(), [](const PackedRow& a, const PackedRow& b) {
        return std::make_pair(a.pairs.size(), a.singles.size()) < std::make_pair(b.pairs.size(), b.singles.size());
      });
      for (const PackedRow& row : rows) writer.row(matrix, row, &row == &rows.back());
    }
  packed.data = AlignedBuffer<uint8_t>(sections_begin + stream.size());
  std::memcpy(packed.data.data(), &header, sizeof(Header));
  std::memcpy(packed.data.data() + sizeof(Header), sections.data(), sections.size() * sizeof(uint64_t));
  std::memcpy(packed.data.data() + sections_begin, stream.data(), stream.size());
  return packed;
}

}  // namespace secateur
