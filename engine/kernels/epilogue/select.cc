#include <iterator>

#include "kernels/epilogue/epilogue.h"

namespace secateur {

namespace {
#define KERNEL(isa, name) {#name, isa, &name##_s32, &name##_rows, &name##_f32},
constexpr EpilogueKernels kKernels[] = {
#include "kernels/epilogue/kernels.inc"
};
#undef KERNEL
}  // namespace

const EpilogueKernels& select_epilogue(Isa isa) {
  for (const EpilogueKernels& kernel : kKernels)
    if (isa_includes(isa, kernel.isa)) return kernel;
  return *(std::end(kKernels) - 1);
}

}  // namespace secateur
