// The step before int8 products whose input takes its scale token by token: reads each row twice, first for its largest
// value, then to quantize it. A producer that knows a static scale has no such step: it writes integers at once.
#pragma once
#include "kernels/quantize_rows/quantize_rows.h"
#include "plan/linear.h"

namespace secateur {

class QuantizeRowsStep final : public Step {
 public:
  // Of `cols` columns, in an order (empty: their own), for the reader of that name; `over_first`: of each sequence's
  // first token only. The order has passed check_order.
  QuantizeRowsStep(std::string reader, Source source, int64_t cols, const Array<uint16_t>& order, bool over_first,
                   Isa isa);

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override { return {(over_first_ ? call.first : call.all).tokens, 0, 0}; }

 private:
  std::string name_;
  Source source_;
  int32_t cols_;
  std::vector<uint16_t> order_;
  bool over_first_;
  const QuantizeRowsKernel& kernel_;
};

}  // namespace secateur
