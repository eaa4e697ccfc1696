// The attention step: every head of every sequence.
#pragma once
#include "kernels/attention/attention.h"
#include "kernels/attention_f32/attention_f32.h"
#include "plan/description.h"
#include "plan/step.h"

namespace secateur {

class AttentionStep final : public Step {
 public:
  // `over_first`: only each sequence's first token asks. `out`: of the context, as the projection that reads it takes
  // it. Validates the record and throws std::invalid_argument.
  AttentionStep(const AttentionRecord& record, const Output& out, bool over_first, Isa isa);

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override;
  size_t scratch_bytes(int32_t longest) const override;

 private:
  // Queries of one head of one sequence.
  struct Work {
    int32_t head, query_begin, query_end, key_begin, key_end;
  };
  template <class Attend>
  void share_out(const Call& call, const Worker& worker, Attend attend) const;
  void run_s8(Call& call, const Worker& worker) const;
  void run_f32(Call& call, const Worker& worker) const;

  std::string name_;
  Output out_;
  bool over_first_;
  const AttentionKernel* kernel_ = nullptr;         // int8
  const AttentionF32Kernel* kernel_f32_ = nullptr;  // or float32
  int32_t num_heads_ = 0, head_dim_ = 0, query_zero_point_ = 0;
  float exponent_scale_ = 0, value_scale_ = 0;
};

}  // namespace secateur
