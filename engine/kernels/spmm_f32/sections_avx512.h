// What the AVX-512 kernels of spmm_f32 and spmm_bf16 share: the walk through a section, four rows in lock step.
//
// A Form says what a step, one entry of each of four rows, looks like (Form::Step), brings the weights of one as four
// 32-bit words (Form::load_weights) and multiplies 16 tokens with one (Form::multiply_add).
#pragma once
#include <cstdint>

#include "base/avx512.h"
#include "kernels/product_f32.h"
#include "kernels/spmm_f32/packed.h"

namespace secateur {
namespace {

using namespace spmm_f32;

constexpr int32_t kLanes = 16, kGroupRows = 4;
constexpr int32_t kPrefetchSteps = 200;

// A chunk of a tile: lanes 0 .. 15 and 16 .. 31.
struct Tile {
  const uint8_t *low, *high;
};

template <int kVectors>
struct Sums {
  __m512 row[kGroupRows][kVectors];
};

template <int kVectors>
__attribute__((always_inline)) inline void load_sums(const float* acc, bool add, __m512* sums) {
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) sums[v] = add ? _mm512_load_ps(acc + kLanes * v) : _mm512_setzero_ps();
}

template <int kVectors>
__attribute__((always_inline)) inline void store_sums(const __m512* sums, float* acc) {
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) _mm512_store_ps(acc + kLanes * v, sums[v]);
}

template <class Form, int kVectors>
__attribute__((always_inline)) inline void add_entry(const Tile& x, uint64_t offset, __m512 weight, __m512* sums) {
  sums[0] = Form::multiply_add(_mm512_load_ps(x.low + kOffsetUnit * offset), weight, sums[0]);
  if (kVectors == 2) sums[1] = Form::multiply_add(_mm512_load_ps(x.high + kOffsetUnit * offset), weight, sums[1]);
}

template <int kRow>
__attribute__((always_inline)) inline __m512 spread(__m512i four) {
  return _mm512_castsi512_ps(_mm512_shuffle_epi32(four, static_cast<_MM_PERM_ENUM>(kRow * 0x55)));
}

// One entry of each of four rows. A load brings four offsets, another four weights: with the activations 2.5 loads
// an entry of 32 tokens, and load slots are what bounds the loop.
template <class Form, int kVectors>
__attribute__((always_inline)) inline void add_step(const Tile& x, const uint8_t* w, const uint8_t* offsets,
                                                    Sums<kVectors>& sums) {
  uint64_t packed;
  __builtin_memcpy(&packed, offsets, sizeof(packed));
  const __m512i four = _mm512_broadcast_i32x4(Form::load_weights(w));
  const __m512 weights[kGroupRows] = {spread<0>(four), spread<1>(four), spread<2>(four), spread<3>(four)};
#pragma GCC unroll 4
  for (int r = 0; r < kGroupRows; ++r) {
    uint64_t offset = r + 1 < kGroupRows ? static_cast<uint16_t>(packed) : packed;
    // Keeps g++ from turning the shift chain into pairs of mask and shift.
    asm("" : "+r"(offset));
    packed >>= 16;
    asm("" : "+r"(packed));
    add_entry<Form, kVectors>(x, offset, weights[r], sums.row[r]);
  }
}

// The steps of a group that are left.
struct Stream {
  const uint8_t *weights, *offsets;
  int32_t steps;
};

// kGroups groups at once: as many steps as the first of them has, the shortest, then what the others have left.
template <class Form, int kVectors, int kGroups>
__attribute__((always_inline)) inline const uint8_t* multiply_groups(const Tile& x, const Group* groups,
                                                                     const uint8_t* stream, bool add, float* acc) {
  Sums<kVectors> sums[kGroups];
  Stream streams[kGroups];
#pragma GCC unroll 2
  for (int g = 0; g < kGroups; ++g) {
    const int32_t steps = groups[g].steps;
    streams[g] = {stream, stream + steps * Form::Step::kWeightBytes, steps};
    stream += (steps * (Form::Step::kWeightBytes + Form::Step::kOffsetBytes) + 15) / 16 * 16;
#pragma GCC unroll 4
    for (int r = 0; r < kGroupRows; ++r) load_sums<kVectors>(acc + groups[g].row[r] * kTile, add, sums[g].row[r]);
  }
  const int32_t together = streams[0].steps;
  for (int32_t i = 0; i < together; ++i)
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
      add_step<Form, kVectors>(x, streams[g].weights, streams[g].offsets, sums[g]);
      streams[g].weights += Form::Step::kWeightBytes;
      streams[g].offsets += Form::Step::kOffsetBytes;
    }
#pragma GCC unroll 2
  for (int g = 0; g < kGroups; ++g) {
    for (int32_t i = together; i < streams[g].steps; ++i) {
      add_step<Form, kVectors>(x, streams[g].weights, streams[g].offsets, sums[g]);
      streams[g].weights += Form::Step::kWeightBytes;
      streams[g].offsets += Form::Step::kOffsetBytes;
    }
#pragma GCC unroll 4
    for (int r = 0; r < kGroupRows; ++r) store_sums<kVectors>(sums[g].row[r], acc + groups[g].row[r] * kTile);
  }
  return stream;
}

template <class Form, int kVectors>
__attribute__((always_inline)) inline void add_single(const Tile& x, const Single& single, __m512* sums) {
  add_entry<Form, kVectors>(x, single.offset, _mm512_set1_ps(single.weight), sums);
}

// kGroups groups go together where the tile is too narrow for one to keep the multipliers busy.
template <class Form, int kVectors, int kGroups>
void multiply_section(const ProductF32Args args) {  // a copy: no store can alias it
  constexpr int32_t kPrefetchBytes = kPrefetchSteps * (Form::Step::kWeightBytes + Form::Step::kOffsetBytes);
  const auto* header = reinterpret_cast<const Header*>(args.packed);
  const auto* sections = reinterpret_cast<const uint64_t*>(header + 1);
  const auto* section = reinterpret_cast<const Section*>(
      args.packed + sections[static_cast<int64_t>(args.chunk) * header->num_row_blocks + args.row_block]);
  const auto* group = reinterpret_cast<const Group*>(section + 1);
  const auto* const groups_end = group + section->num_groups;
  const auto* lone = reinterpret_cast<const Lone*>(groups_end);
  const auto* const lone_end = lone + section->num_lone;
  const auto* stream = reinterpret_cast<const uint8_t*>(lone_end);
  stream += -reinterpret_cast<uintptr_t>(stream) % 16;
  const float* const chunk = args.x + static_cast<int64_t>(args.chunk) * header->chunk_cols * kTile;
  Tile x{reinterpret_cast<const uint8_t*>(chunk), reinterpret_cast<const uint8_t*>(chunk + kLanes)};
  // Two bases with one index need no address arithmetic in the loop; g++ would merge them into one.
  asm("" : "+r"(x.high));
  const bool add = args.chunk > 0;

  while (group != groups_end) {
    const uint8_t* ahead = stream;
    if (groups_end - group >= kGroups) {
      stream = multiply_groups<Form, kVectors, kGroups>(x, group, stream, add, args.acc);
      group += kGroups;
    } else {
      stream = multiply_groups<Form, kVectors, 1>(x, group, stream, add, args.acc);
      ++group;
    }
    if (args.prefetch)
      for (; ahead < stream; ahead += 64)
        _mm_prefetch(reinterpret_cast<const char*>(ahead + kPrefetchBytes), _MM_HINT_T0);
  }

  __m512 sums[kVectors];
  const auto* single = reinterpret_cast<const Single*>(stream);
  for (; lone != lone_end; ++lone) {
    float* const acc = args.acc + lone->row * kTile;
    load_sums<kVectors>(acc, add || lone->continues, sums);
    for (const Single* const end = single + lone->entries; single != end; ++single)
      add_single<Form, kVectors>(x, *single, sums);
    store_sums<kVectors>(sums, acc);
  }
  for (const Single* const end = single + section->num_singles; single != end; ++single) {
    float* const acc = args.acc + single->row * kTile;
    load_sums<kVectors>(acc, true, sums);
    add_single<Form, kVectors>(x, *single, sums);
    store_sums<kVectors>(sums, acc);
  }
}

template <class Form>
__attribute__((always_inline)) inline void multiply(const ProductF32Args& args) {
  if (args.tokens > kLanes)
    multiply_section<Form, 2, 1>(args);
  else
    multiply_section<Form, 1, 2>(args);
}

}  // namespace
}  // namespace secateur
