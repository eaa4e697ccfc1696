#include <iterator>

#include "kernels/round_bf16/round_bf16.h"

namespace secateur {

namespace {
#define KERNEL(isa, name, form) {#name, isa, form, name},
constexpr RoundBf16Kernel kKernels[] = {
#include "kernels/round_bf16/kernels.inc"
};
#undef KERNEL
}  // namespace

const RoundBf16Kernel& select_round_bf16(Isa isa, Bf16Form form) {
  for (const RoundBf16Kernel& kernel : kKernels)
    if (kernel.form == form && isa_includes(isa, kernel.isa)) return kernel;
  return *(std::end(kKernels) - 1);
}

}  // namespace secateur
