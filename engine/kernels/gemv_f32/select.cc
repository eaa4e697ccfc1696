#include <iterator>

#include "kernels/gemv_f32/gemv_f32.h"

namespace secateur {

namespace {
#define KERNEL(isa, name) {#name, isa, name},
constexpr GemvKernel kKernels[] = {
#include "kernels/gemv_f32/kernels.inc"
};
#undef KERNEL
}  // namespace

const GemvKernel& select_gemv_f32(Isa isa) {
  for (const GemvKernel& kernel : kKernels)
    if (isa_includes(isa, kernel.isa)) return kernel;
  return *(std::end(kKernels) - 1);
}

}  // namespace secateur
