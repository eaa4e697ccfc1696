#include <iterator>

#include "kernels/dot/dot.h"

namespace secateur {

namespace {
#define KERNEL(isa, name) {#name, isa, name},
constexpr DotKernel kKernels[] = {
#include "kernels/dot/kernels.inc"
};
#undef KERNEL
}  // namespace

const DotKernel& select_dot(Isa isa) {
  for (const DotKernel& kernel : kKernels)
    if (isa_includes(isa, kernel.isa)) return kernel;
  return *(std::end(kKernels) - 1);
}

}  // namespace secateur
