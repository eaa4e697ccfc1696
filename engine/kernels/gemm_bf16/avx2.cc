// gemm_f32's kernel on weights that are widened on the way, a group of rows at a time: they come from memory as half
// the bytes, and from the first cache after that.
#include <immintrin.h>

#include <cstdint>

#include "kernels/gemm_bf16/gemm_bf16.h"
#include "kernels/gemm_f32/group_avx2.h"
#include "kernels/gemm_f32/packed.h"

namespace secateur {
namespace {

// Reads and writes whole vectors. Asks for the next group's weights, which else come only when all wait for them.
__attribute__((always_inline)) inline void widen(const uint16_t* w, int32_t count, float* wide) {
  for (int32_t i = 0; i < count; i += kLanes) {
    _mm_prefetch(reinterpret_cast<const char*>(w + count + i), _MM_HINT_T0);
    const __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w + i)));
    _mm256_store_si256(reinterpret_cast<__m256i*>(wide + i), _mm256_slli_epi32(low, 16));
  }
}

template <int kRows>
void multiply_wide(const uint16_t* w, const float* x, int32_t cols, int32_t live, int32_t tokens, bool add,
                   float* acc) {
  alignas(64) float wide[kRows * kChunkCols + kLanes];
  widen(w, kRows * cols, wide);
  multiply_tokens<kRows>(wide, x, cols, live, tokens, add, acc);
}

}  // namespace

void gemm_bf16_6x16_avx2(const ProductF32Args& args) {
  const auto* header = reinterpret_cast<const Header*>(args.packed);
  const Section section = find_section(*header, args.chunk, args.row_block);
  const int32_t rows = section.rows, cols = section.cols;
  const uint16_t* w = reinterpret_cast<const uint16_t*>(header + 1) + section.first_weight;
  const float* x = args.x + static_cast<int64_t>(section.first_col) * kTile;
  const bool add = args.chunk > 0;
  int32_t r = 0;
  for (; rows - r > kRestRows; r += kGroupRowsAvx2, w += static_cast<int64_t>(kGroupRowsAvx2) * cols)
    multiply_wide<kGroupRowsAvx2>(w, x, cols, rows - r, args.tokens, add, args.acc + r * kTile);
  if (r < rows) multiply_wide<kRestRows>(w, x, cols, rows - r, args.tokens, add, args.acc + r * kTile);
}

}  // namespace secateur
