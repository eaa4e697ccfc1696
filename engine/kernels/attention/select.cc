#include <iterator>

#include "kernels/attention/attention.h"

namespace secateur {

namespace {
#define KERNEL(isa, name) {#name, isa, name},
constexpr AttentionKernel kKernels[] = {
#include "kernels/attention/kernels.inc"
};
#undef KERNEL
}  // namespace

const AttentionKernel& select_attention(Isa isa) {
  for (const AttentionKernel& kernel : kKernels)
    if (isa_includes(isa, kernel.isa)) return kernel;
  return *(std::end(kKernels) - 1);
}

}  // namespace secateur
