// The step before products of bfloat16 matrices: rounds their input.
#pragma once
#include "kernels/round_bf16/round_bf16.h"
#include "plan/linear.h"

namespace secateur {

class RoundStep final : public Step {
 public:
  // Of `cols` columns; `over_first`: of each sequence's first token only.
  RoundStep(Source source, int64_t cols, bool over_first, Isa isa)
      : source_(source),
        cols_(static_cast<int32_t>(cols)),
        over_first_(over_first),
        kernel_(select_round_bf16(isa, bf16_form(isa))) {}

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override { return {(over_first_ ? call.first : call.all).tokens, 0, 0}; }

 private:
  Source source_;
  int32_t cols_;
  bool over_first_;
  const RoundBf16Kernel& kernel_;
};

}  // namespace secateur
