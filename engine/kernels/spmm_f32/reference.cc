#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/spmm_f32/spmm_f32.h"

namespace secateur {
namespace {

// Layout: Header, row_start [rows + 1] i32, then the entries.
struct Header {
  int32_t rows;
};
struct Entry {
  int32_t col;
  float w;
};

}  // namespace

PackedWeights pack_spmm_f32_reference(const FloatMatrix& matrix) {
  const auto count = static_cast<size_t>(matrix.row_start[matrix.rows]);
  const size_t starts_bytes = sizeof(int32_t) * (static_cast<size_t>(matrix.rows) + 1);
  PackedWeights packed;
  packed.data = AlignedBuffer<uint8_t>(sizeof(Header) + starts_bytes + count * sizeof(Entry));
  const Header header{matrix.rows};
  uint8_t* out = packed.data.data();
  std::memcpy(out, &header, sizeof(Header));
  std::memcpy(out + sizeof(Header), matrix.row_start, starts_bytes);
  out += sizeof(Header) + starts_bytes;
  for (size_t i = 0; i < count; ++i, out += sizeof(Entry)) {
    const Entry entry{matrix.col[i], matrix.values[i]};
    std::memcpy(out, &entry, sizeof(Entry));
  }
  return packed;
}

void spmm_f32_reference(const ProductF32Args& args) {
  Header header;
  std::memcpy(&header, args.packed, sizeof(Header));
  const auto* row_start = reinterpret_cast<const int32_t*>(args.packed + sizeof(Header));
  const auto* entries = reinterpret_cast<const Entry*>(row_start + header.rows + 1);
  const int32_t begin = args.row_block * kRowBlock, end = std::min(header.rows, begin + kRowBlock);
  for (int32_t n = begin; n < end; ++n)
    for (int32_t t = 0; t < args.tokens; ++t) {
      float sum = 0.0f;
      for (int32_t i = row_start[n]; i < row_start[n + 1]; ++i)
        sum = std::fma(args.x[static_cast<ptrdiff_t>(entries[i].col) * kTile + t], entries[i].w, sum);
      args.acc[static_cast<ptrdiff_t>(n - begin) * kTile + t] = sum;
    }
}

}  // namespace secateur
