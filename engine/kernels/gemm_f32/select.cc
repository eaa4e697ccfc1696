#include <iterator>

#include "kernels/gemm_f32/gemm_f32.h"

namespace secateur {

namespace {
#define KERNEL(isa, name, pack, row, weight) {#name, isa, pack, name, {row, weight}},
constexpr ProductF32Kernel kKernels[] = {
#include "kernels/gemm_f32/kernels.inc"
};
#undef KERNEL
}  // namespace

const ProductF32Kernel& select_gemm_f32(Isa isa) {
  for (const ProductF32Kernel& kernel : kKernels)
    if (isa_includes(isa, kernel.isa)) return kernel;
  return *(std::end(kKernels) - 1);
}

}  // namespace secateur
