// Pooler and classifier over each sequence's first token.
#pragma once
#include "kernels/gemv_f32/gemv_f32.h"
#include "plan/description.h"
#include "plan/step.h"

namespace secateur {

class HeadStep final : public Step {
 public:
  HeadStep(const HeadRecord& record, int64_t hidden, Isa isa);

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override;
  size_t scratch_bytes(int32_t longest) const override;
  int32_t num_labels() const { return num_labels_; }

 private:
  // A dense float32 layer, rows in lanes.
  struct Layer {
    AlignedBuffer<float> w, bias;  // [K][n_padded], [n_padded]
    int32_t n_padded = 0;
  };
  static Layer make_layer(const Array<float>& weight, const Array<float>& bias, int64_t hidden,
                          const std::string& name);

  int32_t hidden_, num_labels_;
  bool has_pooler_;
  Layer pooler_, classifier_;
  const GemvKernel* kernel_;
};

}  // namespace secateur
