#include <iterator>

#include "kernels/spmm_u8s8/spmm_u8s8.h"

namespace secateur {

namespace {
#define KERNEL(isa, name, pack, row, weight) {#name, isa, pack, name, {row, weight}},
constexpr ProductKernel kKernels[] = {
#include "kernels/spmm_u8s8/kernels.inc"
};
#undef KERNEL
}  // namespace

const ProductKernel& select_spmm_u8s8(Isa isa) {
  for (const ProductKernel& kernel : kKernels)
    if (isa_includes(isa, kernel.isa)) return kernel;
  return *(std::end(kKernels) - 1);
}

}  // namespace secateur
