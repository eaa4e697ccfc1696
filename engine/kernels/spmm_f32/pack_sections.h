// Writes what packed.h describes. A Step says how many rows a group has (kRows), writes its entries (write()) and how
// the steps of each group are aligned (kAlignment, at most 16).
#pragma once
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/byte_writer.h"
#include "kernels/product_f32.h"
#include "kernels/spmm_f32/packed.h"

namespace secateur::spmm_f32 {

// From so many entries on, what a group leaves of a row is summed on its own: in the list of all that is left, entries
// of one row wait for each other's sums to be stored.
inline constexpr int32_t kLongRest = 8;

// Columns of a chunk. Its share of a tile should stay in the first cache with weights and sums, of which a row of a
// chunk costs as much as a few entries: the fewer entries, the wider the chunk (measured on Zen 3).
inline int32_t most_chunk_cols(const FloatMatrix& matrix) {
  const double density = matrix.row_start[matrix.rows] / (static_cast<double>(matrix.rows) * matrix.cols);
  return density < 0.15 ? 384 : 256;
}

// The entries of a row that lie in a chunk.
struct Run {
  int32_t row;
  const uint16_t* col;
  const float* values;
  int32_t length;
};

inline Run find_run(const FloatMatrix& matrix, int32_t row, int32_t first_col, int32_t last_col) {
  const uint16_t* end = matrix.col + matrix.row_start[row + 1];
  const uint16_t* first = std::lower_bound(matrix.col + matrix.row_start[row], end, first_col);
  const uint16_t* last = std::lower_bound(first, end, last_col);
  return {row, first, matrix.values + (first - matrix.col), static_cast<int32_t>(last - first)};
}

inline uint16_t offset(const Run& run, int32_t i, int32_t first_col) {
  return static_cast<uint16_t>((run.col[i] - first_col) * kColumnUnits);
}

inline Single make_single(const Run& run, int32_t i, int32_t row_begin, int32_t first_col) {
  return {run.values[i], offset(run, i, first_col), static_cast<uint16_t>(run.row - row_begin)};
}

template <class Step>
void write_section(const FloatMatrix& matrix, int32_t row_begin, int32_t first_col, int32_t last_col, ByteWriter& out) {
  const int32_t row_end = std::min(matrix.rows, row_begin + kRowBlock);
  std::vector<Run> runs;
  for (int32_t n = row_begin; n < row_end; ++n) runs.push_back(find_run(matrix, n, first_col, last_col));
  std::stable_sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.length < b.length; });
  // The shortest rows are the lone ones.
  const auto rows = static_cast<int32_t>(runs.size()), num_short = rows % Step::kRows;

  std::vector<Group> groups;
  std::vector<std::pair<Lone, Run>> lone;  // with the entries it has
  const auto put_alone = [&](const Run& run, int32_t done) {
    const int32_t left = run.length - done;
    lone.push_back({{static_cast<uint16_t>(left), static_cast<uint8_t>(run.row - row_begin), done > 0},
                    {run.row, run.col + done, run.values + done, left}});
  };
  for (int32_t r = 0; r < num_short; ++r) put_alone(runs[r], 0);
  std::vector<Single> singles;
  std::vector<std::pair<const Run*, int32_t>> rests;  // a row and its first entry past the steps
  for (int32_t first = num_short; first < rows; first += Step::kRows) {
    Group group{static_cast<uint16_t>(runs[first].length), {}};
    for (int32_t r = 0; r < Step::kRows; ++r) {
      group.row[r] = static_cast<uint8_t>(runs[first + r].row - row_begin);
      if (runs[first + r].length - group.steps < kLongRest)
        rests.emplace_back(&runs[first + r], group.steps);
      else
        put_alone(runs[first + r], group.steps);
    }
    groups.push_back(group);
  }
  for (bool more = true; more;) {
    more = false;
    for (auto& [run, next] : rests) {
      if (next == run->length) continue;
      singles.push_back(make_single(*run, next++, row_begin, first_col));
      more = true;
    }
  }

  out.put(Section{static_cast<int32_t>(groups.size()), static_cast<int32_t>(lone.size()),
                  static_cast<int32_t>(singles.size())});
  for (const Group& group : groups) out.put(group);
  for (const auto& [head, run] : lone) out.put(head);
  out.align(16);
  for (size_t g = 0; g < groups.size(); ++g) {
    Step::write(&runs[num_short + g * Step::kRows], groups[g].steps, first_col, out);
    out.align(Step::kAlignment);
  }
  out.align(16);
  for (const auto& [head, run] : lone)
    for (int32_t i = 0; i < run.length; ++i) out.put(make_single(run, i, row_begin, first_col));
  for (const Single& single : singles) out.put(single);
}

template <class Step>
PackedWeights pack_sections(const FloatMatrix& matrix) {
  const int32_t most_cols = most_chunk_cols(matrix), num_chunks = (matrix.cols + most_cols - 1) / most_cols;
  // Chunks of equal width, so that none is a remnant.
  const int32_t chunk_cols = (matrix.cols + num_chunks - 1) / num_chunks;
  const int32_t num_row_blocks = (matrix.rows + kRowBlock - 1) / kRowBlock;

  ByteWriter out;
  out.put(Header{num_row_blocks, chunk_cols});
  const size_t directory = out.size();
  out.skip(sizeof(uint64_t) * num_chunks * num_row_blocks);
  for (int32_t chunk = 0; chunk < num_chunks; ++chunk)
    for (int32_t block = 0; block < num_row_blocks; ++block) {
      out.align(64);
      out.put_at(directory + sizeof(uint64_t) * (static_cast<size_t>(chunk) * num_row_blocks + block),
                 static_cast<uint64_t>(out.size()));
      write_section<Step>(matrix, block * kRowBlock, chunk * chunk_cols, (chunk + 1) * chunk_cols, out);
    }

  PackedWeights packed;
  packed.num_chunks = num_chunks;
  packed.data = AlignedBuffer<uint8_t>(out.size());
  std::memcpy(packed.data.data(), out.data(), out.size());
  return packed;
}

}  // namespace secateur::spmm_f32
