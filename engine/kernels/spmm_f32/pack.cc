#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "kernels/spmm_f32/packed.h"
#include "kernels/spmm_f32/spmm_f32.h"

namespace secateur {
namespace {

using namespace spmm_f32;

class Writer {
 public:
  void align(size_t to) { bytes_.resize((bytes_.size() + to - 1) / to * to); }
  template <class T>
  void put(const T& value) {
    const size_t at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  template <class T>
  void put_at(size_t at, const T& value) {
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  void skip(size_t count) { bytes_.resize(bytes_.size() + count); }
  size_t size() const { return bytes_.size(); }
  const uint8_t* data() const { return bytes_.data(); }

 private:
  std::vector<uint8_t> bytes_;
};

// The entries of a row that lie in a chunk.
struct Run {
  int32_t row;
  const uint16_t* col;
  const float* values;
  int32_t length;
};

Run find_run(const FloatMatrix& matrix, int32_t row, int32_t first_col, int32_t last_col) {
  const uint16_t* end = matrix.col + matrix.row_start[row + 1];
  const uint16_t* first = std::lower_bound(matrix.col + matrix.row_start[row], end, first_col);
  const uint16_t* last = std::lower_bound(first, end, last_col);
  return {row, first, matrix.values + (first - matrix.col), static_cast<int32_t>(last - first)};
}

StepAvx2 make_step(const Run* runs, int32_t i, int32_t first_col, const StepAvx2*) {
  StepAvx2 step{};
  for (int32_t r = 0; r < StepAvx2::kRows; ++r) {
    step.weights[r] = runs[r].values[i];
    step.columns |= std::rotl(static_cast<uint32_t>((runs[r].col[i] - first_col) * kColumnUnits), 10 * r);
  }
  return step;
}

template <class Step>
void write_section(const FloatMatrix& matrix, int32_t row_begin, int32_t first_col, int32_t last_col, Writer& out) {
  const int32_t row_end = std::min(matrix.rows, row_begin + kRowBlock);
  std::vector<Run> runs;
  for (int32_t n = row_begin; n < row_end; ++n) runs.push_back(find_run(matrix, n, first_col, last_col));
  std::stable_sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.length < b.length; });

  const auto rows = static_cast<int32_t>(runs.size()), num_groups = (rows + Step::kRows - 1) / Step::kRows;
  const auto group_begin = [&](int32_t g) { return std::max(0, rows - (num_groups - g) * Step::kRows); };
  out.put(Section{num_groups, 0});
  std::vector<Group> groups;
  for (int32_t g = 0; g < num_groups; ++g) {
    const Run* run = &runs[group_begin(g)];
    Group group{};
    group.rows = static_cast<uint16_t>(group_begin(g + 1) - group_begin(g));
    group.steps = static_cast<uint16_t>(group.rows == Step::kRows ? run->length : 0);
    for (int32_t r = 0; r < group.rows; ++r) {
      group.singles[r] = static_cast<uint16_t>(run[r].length - group.steps);
      group.row[r] = static_cast<uint8_t>(run[r].row - row_begin);
    }
    groups.push_back(group);
    out.put(group);
  }
  for (int32_t g = 0; g < num_groups; ++g) {
    const Run* run = &runs[group_begin(g)];
    out.align(16);
    for (int32_t i = 0; i < groups[g].steps; ++i)
      out.put(make_step(run, i, first_col, static_cast<const Step*>(nullptr)));
    for (int32_t r = 0; r < groups[g].rows; ++r)
      for (int32_t i = groups[g].steps; i < run[r].length; ++i)
        out.put(Single{run[r].values[i], static_cast<uint32_t>((run[r].col[i] - first_col) * kColumnUnits)});
  }
}

template <class Step>
PackedWeights pack(const FloatMatrix& matrix) {
  const int32_t num_chunks = (matrix.cols + kChunkCols - 1) / kChunkCols;
  // Chunks of equal width, so that none is a remnant.
  const int32_t chunk_cols = (matrix.cols + num_chunks - 1) / num_chunks;
  const int32_t num_row_blocks = (matrix.rows + kRowBlock - 1) / kRowBlock;

  Writer out;
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

}  // namespace

PackedWeights pack_spmm_f32_avx2(const FloatMatrix& matrix) { return pack<StepAvx2>(matrix); }

}  // namespace secateur
