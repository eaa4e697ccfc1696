#include <iterator>

#include "kernels/gemm_bf16/gemm_bf16.h"

namespace secateur {

namespace {
#define KERNEL(isa, name, form, pack, row, weight) {{#name, isa, pack, name, {row, weight}}, form},
constexpr ProductBf16Kernel kKernels[] = {
#include "kernels/gemm_bf16/kernels.inc"
};
#undef KERNEL
}  // namespace

const ProductBf16Kernel& select_gemm_bf16(Isa isa, Bf16Form form) {
  for (const ProductBf16Kernel& kernel : kKernels)
    if (kernel.reads == form && isa_includes(isa, kernel.product.isa)) return kernel;
  return *(std::end(kKernels) - 1);
}

}  // namespace secateur
