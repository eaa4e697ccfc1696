#include <iterator>

#include "kernels/peak/peak.h"

namespace secateur {

namespace {
#define KERNEL(isa, name, type, macs) {#name, isa, type, macs, name},
constexpr PeakKernel kKernels[] = {
#include "kernels/peak/kernels.inc"
};
#undef KERNEL
}  // namespace

const PeakKernel& select_peak(PeakType type, Isa isa) {
  if (type == kBf16 && !(has_bf16() && isa_includes(isa, kAvx512))) type = kF32;
  for (const PeakKernel& kernel : kKernels)
    if (kernel.type == type && isa_includes(isa, kernel.isa)) return kernel;
  return *(std::end(kKernels) - (type == kU8S8 ? 2 : 1));
}

}  // namespace secateur
