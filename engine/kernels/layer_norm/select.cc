#include <iterator>

#include "kernels/layer_norm/layer_norm.h"

namespace secateur {

namespace {
#define KERNEL(isa, name) {#name, isa, name},
constexpr LayerNormKernel kKernels[] = {
#include "kernels/layer_norm/kernels.inc"
};
#undef KERNEL
}  // namespace

const LayerNormKernel& select_layer_norm(Isa isa) {
  for (const LayerNormKernel& kernel : kKernels)
    if (isa_includes(isa, kernel.isa)) return kernel;
  return *(std::end(kKernels) - 1);
}

}  // namespace secateur
