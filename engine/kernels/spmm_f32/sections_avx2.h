// What the AVX2 kernels of spmm_f32 and spmm_bf16 share: the walk through a section, three rows in lock step.
//
// A Form says what a step, one entry of each of three rows, looks like (Form::Step) and adds one (Form::add).
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "kernels/product_f32.h"
#include "kernels/spmm_f32/packed.h"

namespace secateur {
namespace {

using namespace spmm_f32;

constexpr int32_t kLanes = 8, kGroupRows = 3;

template <int kVectors>
struct Sums {
  __m256 row[kGroupRows][kVectors];
};

__attribute__((always_inline)) inline const float* activations(const float* x, uint64_t offset) {
  return reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(x) + offset * kOffsetUnit);
}

template <int kVectors>
__attribute__((always_inline)) inline void add_entry(const float* x, __m256 weight, __m256* sums) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) sums[v] = _mm256_fmadd_ps(_mm256_load_ps(x + kLanes * v), weight, sums[v]);
}

template <int kVectors>
__attribute__((always_inline)) inline void load_sums(const float* acc, bool add, __m256* sums) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) sums[v] = add ? _mm256_load_ps(acc + kLanes * v) : _mm256_setzero_ps();
}

template <int kVectors>
__attribute__((always_inline)) inline void store_sums(const __m256* sums, float* acc) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) _mm256_store_ps(acc + kLanes * v, sums[v]);
}

// kGroups groups at once: as many steps as the first of them has, the shortest, then what the others have left.
template <class Form, int kVectors, int kGroups, class Step = typename Form::Step>
const Step* multiply_groups(const float* x, const Group* groups, const Step* steps, bool add, float* acc) {
  Sums<kVectors> sums[kGroups];
  const Step *next[kGroups], *end[kGroups];
#pragma GCC unroll 3
  for (int g = 0; g < kGroups; ++g) {
    next[g] = steps;
    end[g] = steps += groups[g].steps;
#pragma GCC unroll 3
    for (int r = 0; r < kGroupRows; ++r) load_sums<kVectors>(acc + groups[g].row[r] * kTile, add, sums[g].row[r]);
  }
  while (next[0] != end[0])
#pragma GCC unroll 3
    for (int g = 0; g < kGroups; ++g) Form::add(x, next[g]++, sums[g]);
#pragma GCC unroll 3
  for (int g = 0; g < kGroups; ++g) {
    while (next[g] != end[g]) Form::add(x, next[g]++, sums[g]);
#pragma GCC unroll 3
    for (int r = 0; r < kGroupRows; ++r) store_sums<kVectors>(sums[g].row[r], acc + groups[g].row[r] * kTile);
  }
  return steps;
}

template <int kVectors>
__attribute__((always_inline)) inline void add_single(const float* x, const Single& single, __m256* sums) {
  add_entry<kVectors>(activations(x, single.offset), _mm256_broadcast_ss(&single.weight), sums);
}

// kGroups groups go together where the tile is too narrow for one to keep the multipliers busy.
template <class Form, int kVectors, int kGroups>
void multiply_section(const ProductF32Args args) {  // a copy: no store can alias it
  const auto* header = reinterpret_cast<const Header*>(args.packed);
  const auto* sections = reinterpret_cast<const uint64_t*>(header + 1);
  const auto* section = reinterpret_cast<const Section*>(
      args.packed + sections[static_cast<int64_t>(args.chunk) * header->num_row_blocks + args.row_block]);
  const auto* group = reinterpret_cast<const Group*>(section + 1);
  const auto* const groups_end = group + section->num_groups;
  const auto* lone = reinterpret_cast<const Lone*>(groups_end);
  const auto* const lone_end = lone + section->num_lone;
  const auto steps_begin = (reinterpret_cast<uintptr_t>(lone_end) + 15) / 16 * 16;
  const auto* steps = reinterpret_cast<const typename Form::Step*>(steps_begin);
  const float* x = args.x + static_cast<int64_t>(args.chunk) * header->chunk_cols * kTile;
  const bool add = args.chunk > 0;

  for (; groups_end - group >= kGroups; group += kGroups)
    steps = multiply_groups<Form, kVectors, kGroups>(x, group, steps, add, args.acc);
  for (; group != groups_end; ++group) steps = multiply_groups<Form, kVectors, 1>(x, group, steps, add, args.acc);

  __m256 sums[kVectors];
  const auto* single = reinterpret_cast<const Single*>((reinterpret_cast<uintptr_t>(steps) + 15) / 16 * 16);
  for (; lone != lone_end; ++lone) {
    float* const acc = args.acc + lone->row * kTile;
    load_sums<kVectors>(acc, add || lone->continues, sums);
    for (const Single* const end = single + lone->entries; single != end; ++single)
      add_single<kVectors>(x, *single, sums);
    store_sums<kVectors>(sums, acc);
  }
  for (const Single* const end = single + section->num_singles; single != end; ++single) {
    float* const acc = args.acc + single->row * kTile;
    load_sums<kVectors>(acc, true, sums);
    add_single<kVectors>(x, *single, sums);
    store_sums<kVectors>(sums, acc);
  }
}

// The kernel: a narrow tile takes two groups at a time.
template <class Form>
__attribute__((always_inline)) inline void multiply(const ProductF32Args& args) {
  switch ((args.tokens + kLanes - 1) / kLanes) {
    case 1:
      return multiply_section<Form, 1, 2>(args);
    case 2:
      return multiply_section<Form, 2, 2>(args);
    case 3:
      return multiply_section<Form, 3, 1>(args);
    default:
      return multiply_section<Form, 4, 1>(args);
  }
}

}  // namespace
}  // namespace secateur
