#include <algorithm>
#include <cstring>

#include "kernels/spmm_u8s8/spmm_u8s8.h"

namespace secateur {
namespace {

// Layout: Header, row_start [rows + 1] i32, then per block: column u16 | 2 unused bytes, 4 x s8.
struct Header {
  int32_t rows;
};
struct Entry {
  uint16_t col;
  int8_t w[kBlock];
};

}  // namespace

PackedWeights pack_spmm_reference(const BlockMatrix& matrix) {
  const size_t num_blocks = static_cast<size_t>(matrix.row_start[matrix.rows]);
  const size_t starts_bytes = sizeof(int32_t) * (static_cast<size_t>(matrix.rows) + 1);
  PackedWeights packed;
  packed.data = AlignedBuffer<uint8_t>(sizeof(Header) + starts_bytes + num_blocks * sizeof(Entry));
  const Header header{matrix.rows};
  uint8_t* out = packed.data.data();
  std::memcpy(out, &header, sizeof(Header));
  std::memcpy(out + sizeof(Header), matrix.row_start, starts_bytes);
  out += sizeof(Header) + starts_bytes;
  for (size_t i = 0; i < num_blocks; ++i, out += sizeof(Entry)) {
    Entry entry{matrix.block_col[i], {}};
    std::memcpy(entry.w, matrix.values + i * kBlock, kBlock);
    std::memcpy(out, &entry, sizeof(Entry));
  }
  return packed;
}

void spmm_u8s8_block4_reference(const ProductArgs& args) {
  Header header;
  std::memcpy(&header, args.packed, sizeof(Header));
  const auto* row_start = reinterpret_cast<const int32_t*>(args.packed + sizeof(Header));
  const auto* entries = reinterpret_cast<const Entry*>(row_start + header.rows + 1);
  const int32_t begin = args.row_block * kRowBlock, end = std::min(header.rows, begin + kRowBlock);
  for (int32_t n = begin; n < end; ++n) {
    int32_t* acc = args.acc + static_cast<ptrdiff_t>(n - begin) * kTile;
    for (int32_t t = 0; t < args.tokens; ++t) {
      int32_t sum = 0;
      for (int32_t i = row_start[n]; i < row_start[n + 1]; ++i) {
        const uint8_t* x = args.x + (static_cast<ptrdiff_t>(entries[i].col) * kTile + t) * kBlock;
        for (int32_t j = 0; j < kBlock; ++j) sum += static_cast<int32_t>(x[j]) * entries[i].w[j];
      }
      acc[t] = sum;
    }
  }
}

}  // namespace secateur
