#include <immintrin.h>

#include <cstdint>

#include "kernels/spmm_f32/packed.h"
#include "kernels/spmm_f32/spmm_f32.h"

namespace secateur {
namespace {

using namespace spmm_f32;
using Step = StepAvx2;

constexpr int32_t kLanes = 8;
constexpr int32_t kPrefetchBytes = 2048;

template <int kVectors>
struct Sums {
  __m256 row[Step::kRows][kVectors];
};

__attribute__((always_inline)) inline const float* activations(const float* x, uint64_t offset) {
  return reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(x) + offset * kOffsetUnit);
}

template <int kVectors>
__attribute__((always_inline)) inline void add_entry(const float* x, __m256 weight, __m256* sums) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) sums[v] = _mm256_fmadd_ps(_mm256_load_ps(x + kLanes * v), weight, sums[v]);
}

// One entry of each of three rows. One load brings the weights and the columns: with the activations 13 loads of
// vectors for 12 multiplications.
template <int kVectors>
__attribute__((always_inline)) inline void add_step(const float* x, const Step* step, Sums<kVectors>& sums) {
  const __m256 all = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(step));
  const uint32_t columns = step->columns;
  add_entry<kVectors>(activations(x, columns & Step::kMask), _mm256_permute_ps(all, 0x00), sums.row[0]);
  add_entry<kVectors>(activations(x, columns >> 10 & Step::kMask), _mm256_permute_ps(all, 0x55), sums.row[1]);
  add_entry<kVectors>(activations(x, (columns >> 20 | columns << 12) & Step::kMask), _mm256_permute_ps(all, 0xaa),
                      sums.row[2]);
}

// kGroups groups at once, of which the first has the fewest steps.
template <int kVectors, int kGroups>
const uint8_t* multiply_groups(const float* x, const Group* groups, const uint8_t* stream, bool add, float* acc) {
  Sums<kVectors> sums[kGroups];
  const uint8_t* streams[kGroups];
#pragma GCC unroll 3
  for (int g = 0; g < kGroups; ++g) {
    const Group& group = groups[g];
    streams[g] = stream;
    int32_t singles = 0;
#pragma GCC unroll 3
    for (int r = 0; r < Step::kRows; ++r) {
      singles += group.singles[r];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sums[g].row[r][v] = add ? _mm256_load_ps(acc + group.row[r] * kTile + kLanes * v) : _mm256_setzero_ps();
    }
    stream += group.steps * sizeof(Step) + (singles + 1) / 2 * 2 * sizeof(Single);
  }
  int32_t done = 0;
  for (; done < groups[0].steps; ++done)
#pragma GCC unroll 3
    for (int g = 0; g < kGroups; ++g) {
      add_step<kVectors>(x, reinterpret_cast<const Step*>(streams[g]), sums[g]);
      streams[g] += sizeof(Step);
    }
#pragma GCC unroll 3
  for (int g = 0; g < kGroups; ++g) {
    const Group& group = groups[g];
    const uint8_t* p = streams[g];
    if (g > 0)
      for (int32_t n = group.steps - done; n > 0; --n, p += sizeof(Step))
        add_step<kVectors>(x, reinterpret_cast<const Step*>(p), sums[g]);
#pragma GCC unroll 3
    for (int r = 0; r < Step::kRows; ++r) {
      for (int32_t n = group.singles[r]; n > 0; --n, p += sizeof(Single)) {
        const auto* single = reinterpret_cast<const Single*>(p);
        add_entry<kVectors>(activations(x, single->offset), _mm256_broadcast_ss(&single->weight), sums[g].row[r]);
      }
      if (r < group.rows)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) _mm256_store_ps(acc + group.row[r] * kTile + kLanes * v, sums[g].row[r][v]);
    }
  }
  return stream;
}

template <int kVectors, int kGroups>
void multiply_section(const ProductF32Args& args) {
  const auto* header = reinterpret_cast<const Header*>(args.packed);
  const auto* sections = reinterpret_cast<const uint64_t*>(header + 1);
  const auto* section = reinterpret_cast<const Section*>(
      args.packed + sections[static_cast<int64_t>(args.chunk) * header->num_row_blocks + args.row_block]);
  const auto* group = reinterpret_cast<const Group*>(section + 1);
  const auto* const end = group + section->num_groups;
  const auto* stream = reinterpret_cast<const uint8_t*>(end);
  stream += -reinterpret_cast<uintptr_t>(stream) % 16;
  const float* x = args.x + static_cast<int64_t>(args.chunk) * header->chunk_cols * kTile;
  float* const acc = args.acc;
  const bool add = args.chunk > 0, prefetch = args.prefetch;
  while (group != end) {
    const uint8_t* begin = stream;
    if (end - group >= kGroups) {
      stream = multiply_groups<kVectors, kGroups>(x, group, stream, add, acc);
      group += kGroups;
    } else {
      stream = multiply_groups<kVectors, 1>(x, group, stream, add, acc);
      ++group;
    }
    if (prefetch)
      for (; begin < stream; begin += 64)
        _mm_prefetch(reinterpret_cast<const char*>(begin + kPrefetchBytes), _MM_HINT_T0);
  }
}

}  // namespace

void spmm_f32_3x32_avx2(const ProductF32Args& args) {
  switch ((args.tokens + kLanes - 1) / kLanes) {
    case 1:
      return multiply_section<1, 3>(args);
    case 2:
      return multiply_section<2, 2>(args);
    case 3:
      return multiply_section<3, 1>(args);
    default:
      return multiply_section<4, 1>(args);
  }
}

}  // namespace secateur
