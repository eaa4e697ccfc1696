#include <iterator>

#include "kernels/embedding/embedding.h"

namespace secateur {

namespace {
#define KERNEL(isa, name) {#name, isa, name},
constexpr EmbeddingKernel kKernels[] = {
#include "kernels/embedding/kernels.inc"
};
#undef KERNEL
}  // namespace

const EmbeddingKernel& select_embedding(Isa isa) {
  for (const EmbeddingKernel& kernel : kKernels)
    if (isa_includes(isa, kernel.isa)) return kernel;
  return *(std::end(kKernels) - 1);
}

}  // namespace secateur
