#include <iterator>

#include "kernels/spmm_f32/spmm_f32.h"

namespace secateur {

namespace {
#define KERNEL(isa, name, pack, row, weight) {#name, isa, pack, name, {row, weight}},
constexpr ProductF32Kernel kKernels[] = {
#include "kernels/spmm_f32/kernels.inc"
};
#undef KERNEL
}  // namespace

const ProductF32Kernel& select_spmm_f32(Isa isa) {
  for (const ProductF32Kernel& kernel : kKernels)
    if (isa_includes(isa, kernel.isa)) return kernel;
  return *(std::end(kKernels) - 1);
}

}  // namespace secateur
