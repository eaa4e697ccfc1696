#include <iterator>

#include "kernels/quantize_rows/quantize_rows.h"

namespace secateur {

namespace {
#define KERNEL(isa, name) {#name, isa, name},
constexpr QuantizeRowsKernel kKernels[] = {
#include "kernels/quantize_rows/kernels.inc"
};
#undef KERNEL
}  // namespace

const QuantizeRowsKernel& select_quantize_rows(Isa isa) {
  for (const QuantizeRowsKernel& kernel : kKernels)
    if (isa_includes(isa, kernel.isa)) return kernel;
  return *(std::end(kKernels) - 1);
}

}  // namespace secateur
