// What the two bfloat16 products (spmm_bf16, gemm_bf16) have in common.
//
//   y[n][t] = sum_k w[n][k] * r(x[k][t])      w bfloat16, r(x) bfloat16, the sum float32
//   r(x) = 0 where |x| < 2^-60, else x rounded to bfloat16, half to even (round_bf16 writes it)
//
// The sum of an output is one chain of fused multiply-adds in ascending k that starts from +0 in chunk 0, as that of
// the float32 products (kernels/product_f32.h). AVX512_BF16's vdpbf16ps is such a chain of two, the high half of each
// word first; activations are rounded because it takes no others, and it does twice the work of a float32
// multiplication. It also flushes denormals, which no other instruction here does, so that the law keeps them away:
// a weight is 0 or at least kLeastWeight, r(x) is 0 or at least kLeastActivation, hence every product and every
// rounded sum is a multiple of 2^-124, and none is denormal. Sums therefore never become -0 either, and a weight of 0
// is neutral wherever r(x) is finite. So results are equal, bit by bit, on every instruction set, and do not depend on
// batch, place or threads; where an activation is infinite or NaN the sums of its token are infinite or NaN, but a
// kernel of pairs may have that in rows too in which the weight is not stored.
#pragma once
#include "kernels/product_f32.h"

namespace secateur {

inline constexpr float kLeastWeight = 0x1p-50f, kLeastActivation = 0x1p-60f;

// How a kernel wants r(x), in a buffer of the layout of the residual: 4 bytes for each column and token, or half of it.
//   kRounded  f32 [K][32 tokens]
//   kPairs    bfloat16 [ceil(K / 2)][32 tokens][2], of columns 2j and 2j + 1 the earlier one in the high half of the
//             word; past the last column 0
enum class Bf16Form { kRounded, kPairs };

// `product` is called as those of the float32 products are. Its matrix holds bfloat16 values, widened to float: 0 or of
// a magnitude of at least kLeastWeight; its x is what round_bf16 wrote, in the form that the kernel reads.
// kPairs runs where has_bf16() only.
struct ProductBf16Kernel {
  ProductF32Kernel product;
  Bf16Form reads;
};

// The form that all kernels of `isa` read on this CPU.
inline Bf16Form bf16_form(Isa isa) {
  return has_bf16() && isa_includes(isa, kAvx512) ? Bf16Form::kPairs : Bf16Form::kRounded;
}

}  // namespace secateur
