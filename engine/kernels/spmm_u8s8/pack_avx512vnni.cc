#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/byte_writer.h"
#include "kernels/spmm_u8s8/packed_avx512vnni.h"
#include "kernels/spmm_u8s8/spmm_u8s8.h"

namespace secateur {
namespace {

using namespace spmm_avx512vnni;

// Columns of a chunk: its share of a tile, 32 KB, leaves room in the first cache for weights and sums.
constexpr int32_t kChunkBlocks = 1024 / kBlock;

// The blocks of a row that lie in a chunk, as indices into the matrix.
struct Run {
  int32_t row, begin, end;
  int32_t length() const { return end - begin; }
};

Run find_run(const BlockMatrix& matrix, int32_t row, int32_t first_block, int32_t last_block) {
  const uint16_t* begin = matrix.block_col + matrix.row_start[row];
  const uint16_t* end = matrix.block_col + matrix.row_start[row + 1];
  const auto at = [&](int32_t block) {
    return static_cast<int32_t>(std::lower_bound(begin, end, block) - matrix.block_col);
  };
  return {row, at(first_block), at(last_block)};
}

void write_group(const BlockMatrix& matrix, const std::array<Run, kGroupRows>& runs, int32_t steps, ByteWriter& out) {
  constexpr int8_t kZeros[kBlock] = {};
  out.align(16);
  for (int32_t s = 0; s < steps; ++s)
    for (const Run& run : runs) {
      std::array<int8_t, kBlock> w;
      std::memcpy(w.data(), s < run.length() ? matrix.values + static_cast<size_t>(run.begin + s) * kBlock : kZeros,
                  kBlock);
      out.put(w);
    }
  for (int32_t s = 0; s < steps; ++s)
    for (const Run& run : runs) {
      // Padding repeats the row's last block, whose activations are in the first cache.
      const int32_t i = std::min(run.begin + s, run.end - 1);
      const int32_t block = run.length() > 0 ? matrix.block_col[i] : 0;
      out.put(static_cast<uint16_t>(block * (kTile * kBlock / kOffsetUnit)));
    }
}

void write_section(const BlockMatrix& matrix, int32_t row_block, int32_t first_block, int32_t last_block,
                   ByteWriter& out) {
  const int32_t row_begin = row_block * kRowBlock, rows = std::min(kRowBlock, matrix.rows - row_begin);
  std::vector<Run> runs;
  for (int32_t r = 0; r < rows; ++r) runs.push_back(find_run(matrix, row_begin + r, first_block, last_block));
  std::stable_sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.length() < b.length(); });

  const int32_t num_groups = rows / kGroupRows;
  out.put(Section{num_groups, 0});
  std::vector<std::array<Run, kGroupRows>> groups(static_cast<size_t>(num_groups));
  for (int32_t g = 0; g < num_groups; ++g) {
    std::copy_n(runs.begin() + g * kGroupRows, kGroupRows, groups[g].begin());
    Group group{groups[g].back().length(), {}};
    for (int32_t r = 0; r < kGroupRows; ++r) group.row[r] = static_cast<uint8_t>(groups[g][r].row - row_begin);
    out.put(group);
  }
  for (const auto& group : groups) write_group(matrix, group, group.back().length(), out);
}

}  // namespace

PackedWeights pack_spmm_avx512vnni(const BlockMatrix& matrix) {
  const int32_t blocks = matrix.cols / kBlock;
  const int32_t num_chunks = std::max(1, (blocks + kChunkBlocks - 1) / kChunkBlocks);
  const int32_t chunk_blocks = (blocks + num_chunks - 1) / num_chunks;
  const int32_t num_row_blocks = (matrix.rows + kRowBlock - 1) / kRowBlock;

  ByteWriter out;
  out.put(Header{num_row_blocks, 0});
  const size_t directory = out.size();
  out.skip(sizeof(uint64_t) * num_chunks * num_row_blocks);
  for (int32_t chunk = 0; chunk < num_chunks; ++chunk)
    for (int32_t row_block = 0; row_block < num_row_blocks; ++row_block) {
      out.align(64);
      out.put_at(directory + sizeof(uint64_t) * (static_cast<size_t>(chunk) * num_row_blocks + row_block),
                 static_cast<uint64_t>(out.size()));
      write_section(matrix, row_block, chunk * chunk_blocks, std::min(blocks, (chunk + 1) * chunk_blocks), out);
    }

  PackedWeights packed;
  packed.num_chunks = num_chunks;
  packed.data = AlignedBuffer<uint8_t>(out.size());
  std::memcpy(packed.data.data(), out.data(), out.size());
  return packed;
}

}  // namespace secateur
