#include <cmath>

#include "kernels/gemv_f32/gemv_f32.h"

namespace secateur {

void gemv_f32_reference(const GemvArgs& args) {
  for (int32_t n = 0; n < args.n_padded; ++n) {
    float sum = args.bias[n];
    for (int32_t k = 0; k < args.k; ++k)
      sum = std::fma(args.x[k], args.w[static_cast<ptrdiff_t>(k) * args.n_padded + n], sum);
    args.y[n] = sum;
  }
}

}  // namespace secateur
