// The attention step: every head of every sequence.
#pragma once
#include "kernels/attention/attention.h"
#include "plan/description.h"
#include "plan/step.h"

namespace secateur {

class AttentionStep final : public Step {
 public:
  // `over_first`: only each sequence's first token asks. Validates the record and throws std::invalid_argument.
  AttentionStep(const AttentionRecord& record, bool over_first, Isa isa);

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override;
  size_t scratch_bytes(int32_t longest) const override { return attention_scratch_bytes(longest, head_dim_); }

  OutputScale out;  // of the context, set by the projection that reads it

 private:
  std::string name_;
  bool over_first_;
  const AttentionKernel* kernel_;
  int32_t num_heads_, head_dim_, query_zero_point_;
  float exponent_scale_, value_scale_;
};

}  // namespace secateur
