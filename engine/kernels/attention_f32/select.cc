#include <iterator>

#include "kernels/attention_f32/attention_f32.h"

namespace secateur {

namespace {
#define KERNEL(isa, name) {#name, isa, name},
constexpr AttentionF32Kernel kKernels[] = {
#include "kernels/attention_f32/kernels.inc"
};
#undef KERNEL
}  // namespace

const AttentionF32Kernel& select_attention_f32(Isa isa) {
  for (const AttentionF32Kernel& kernel : kKernels)
    if (isa_includes(isa, kernel.isa)) return kernel;
  return *(std::end(kKernels) - 1);
}

}  // namespace secateur
