#include <cstdint>

#include "base/avx512.h"
#include "kernels/spmm_u8s8/packed_avx512vnni.h"
#include "kernels/spmm_u8s8/spmm_u8s8.h"

namespace secateur {
namespace {

using namespace spmm_avx512vnni;

constexpr int32_t kStepWeightBytes = kGroupRows * kBlock;
constexpr int32_t kStepOffsetBytes = kGroupRows * sizeof(uint16_t);
constexpr int32_t kPrefetchBytes = 200 * (kStepWeightBytes + kStepOffsetBytes);

// The tile: lanes 0 .. 15 and 16 .. 31.
struct Tile {
  const uint8_t *low, *high;
};

// Four rows. With two vectors a row holds 32 tokens; with one, the sums of even and of odd steps of 16 tokens, so
// that there are eight independent chains either way.
struct Sums {
  __m512i row[kGroupRows][2];
};

template <int kRow>
__attribute__((always_inline)) inline __m512i spread(__m512i four) {
  return _mm512_shuffle_epi32(four, static_cast<_MM_PERM_ENUM>(kRow * 0x55));
}

// One block of each row. A load brings four offsets, another four weights: with the activations 2.5 loads a block
// of 32 tokens, and load slots are what bounds the loop.
template <int kVectors>
__attribute__((always_inline)) inline void add_step(const Tile& x, const uint8_t* w, const uint8_t* offsets, int parity,
                                                    Sums& sums) {
  uint64_t packed;
  __builtin_memcpy(&packed, offsets, sizeof(packed));
  const __m512i four = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(w)));
  const __m512i weights[kGroupRows] = {spread<0>(four), spread<1>(four), spread<2>(four), spread<3>(four)};
#pragma GCC unroll 4
  for (int r = 0; r < kGroupRows; ++r) {
    uint64_t offset = r + 1 < kGroupRows ? static_cast<uint16_t>(packed) : packed;
    // Keeps g++ from turning the shift chain into pairs of mask and shift (3 % on Zen 5).
    asm("" : "+r"(offset));
    packed >>= 16;
    asm("" : "+r"(packed));
    const __m512i low = _mm512_load_si512(x.low + kOffsetUnit * offset);
    if (kVectors == 2) {
      sums.row[r][0] = dpbusd(sums.row[r][0], low, weights[r]);
      sums.row[r][1] = dpbusd(sums.row[r][1], _mm512_load_si512(x.high + kOffsetUnit * offset), weights[r]);
    } else {
      sums.row[r][parity] = dpbusd(sums.row[r][parity], low, weights[r]);
    }
  }
}

template <int kVectors>
__attribute__((always_inline)) inline void multiply_group(const Tile& x, const uint8_t* stream, const Group& group,
                                                          bool add, int32_t* acc) {
  Sums sums;
#pragma GCC unroll 4
  for (int r = 0; r < kGroupRows; ++r) {
    const int32_t* row = acc + group.row[r] * kTile;
    sums.row[r][0] = add ? _mm512_load_si512(row) : _mm512_setzero_si512();
    sums.row[r][1] = add && kVectors == 2 ? _mm512_load_si512(row + 16) : _mm512_setzero_si512();
  }
  const uint8_t *w = stream, *offsets = stream + static_cast<int64_t>(group.steps) * kStepWeightBytes;
  for (int32_t pairs = group.steps / 2; pairs > 0; --pairs) {
    add_step<kVectors>(x, w, offsets, 0, sums);
    add_step<kVectors>(x, w + kStepWeightBytes, offsets + kStepOffsetBytes, 1, sums);
    w += 2 * kStepWeightBytes;
    offsets += 2 * kStepOffsetBytes;
  }
  if (group.steps % 2 != 0) add_step<kVectors>(x, w, offsets, 0, sums);
#pragma GCC unroll 4
  for (int r = 0; r < kGroupRows; ++r) {
    int32_t* row = acc + group.row[r] * kTile;
    if (kVectors == 2) {
      _mm512_store_si512(row, sums.row[r][0]);
      _mm512_store_si512(row + 16, sums.row[r][1]);
    } else {
      _mm512_store_si512(row, _mm512_add_epi32(sums.row[r][0], sums.row[r][1]));
    }
  }
}

template <int kVectors>
void multiply_section(const ProductArgs args, const uint8_t* section) {  // a copy: no store can alias it
  Section head;
  __builtin_memcpy(&head, section, sizeof(head));
  const uint8_t* next = section + sizeof(head);
  const uint8_t* stream = next + static_cast<int64_t>(head.num_groups) * sizeof(Group);
  Tile x{args.x, args.x + 64};
  // Two bases with one index need no address arithmetic in the loop; g++ would merge them into one.
  asm("" : "+r"(x.high));
  for (int32_t g = 0; g < head.num_groups; ++g, next += sizeof(Group)) {
    Group group;
    __builtin_memcpy(&group, next, sizeof(group));
    stream += -reinterpret_cast<uintptr_t>(stream) % 16;
    const int64_t bytes = static_cast<int64_t>(group.steps) * (kStepWeightBytes + kStepOffsetBytes);
    if (args.prefetch)
      for (int64_t ahead = 0; ahead < bytes; ahead += 64)
        _mm_prefetch(reinterpret_cast<const char*>(stream + kPrefetchBytes + ahead), _MM_HINT_T0);
    multiply_group<kVectors>(x, stream, group, args.chunk > 0, args.acc);
    stream += bytes;
  }
}

}  // namespace

void spmm_u8s8_block4_4x32_avx512vnni(const ProductArgs& args) {
  Header header;
  __builtin_memcpy(&header, args.packed, sizeof(header));
  const int64_t index = static_cast<int64_t>(args.chunk) * header.num_row_blocks + args.row_block;
  uint64_t offset;
  __builtin_memcpy(&offset, args.packed + sizeof(header) + index * sizeof(offset), sizeof(offset));
  if (args.tokens > 16)
    multiply_section<2>(args, args.packed + offset);
  else
    multiply_section<1>(args, args.packed + offset);
}

}  // namespace secateur
