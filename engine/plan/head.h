// The head: rows of the last layer, and what becomes of them. Rows lie one after another here, not in tiles, and its
// weights are read in place.
#pragma once
#include "kernels/dot/dot.h"
#include "plan/description.h"
#include "plan/norm.h"
#include "plan/step.h"

namespace secateur {

struct Head {
  HeadRows rows = HeadRows::kFirst;
  int32_t num_outputs = 0;
  int32_t widths[2] = {0, 0};  // of Call::head
};

// Appends the steps of a head to `steps`. `word`: the word table, whose memory counts once where the head reads it too.
// Validates the record and throws std::invalid_argument.
Head make_head(const HeadRecord& record, const Weights& word, int64_t hidden, float eps, Isa isa,
               std::vector<std::unique_ptr<Step>>& steps);

// A row buffer of the head: Call::head[0], Call::head[1] or the call's output.
enum class HeadBuffer { kFirst, kSecond, kOutput };

// Takes rows out of the last layer's tiles, one a token or sequence.
class HeadRowsStep final : public Step {
 public:
  HeadRowsStep(HeadRows rows, int64_t hidden, HeadBuffer to)
      : rows_(rows), hidden_(static_cast<int32_t>(hidden)), to_(to) {}

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override;

 private:
  HeadRows rows_;
  int32_t hidden_;
  HeadBuffer to_;
};

// A dense layer over rows, with or without an activation; its weights are not copied.
class HeadDenseStep final : public Step {
 public:
  // `held_elsewhere`: the weights are part of a table. Validates weights and throws std::invalid_argument.
  HeadDenseStep(const std::string& name, const Weights& weight, const Array<float>& scale, const Array<float>& bias,
                std::optional<Activation> activation, int64_t columns, bool held_elsewhere, HeadBuffer from,
                HeadBuffer to, Isa isa);

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override;
  size_t scratch_bytes(int32_t longest) const override;
  int32_t num_rows() const { return n_; }

 private:
  void activate(const float* sums, int32_t first, int32_t rows, int32_t tokens, float* activated, float* out) const;

  std::string name_;
  const float* weight_f32_ = nullptr;  // [N, K]
  const int8_t* weight_s8_ = nullptr;  // or these
  std::vector<float> scale_, bias_;    // [N], the scale of int8 only
  std::optional<Activation> activation_;
  int32_t n_ = 0, k_ = 0;
  int64_t bytes_ = 0;
  HeadBuffer from_, to_;
  const DotKernel* kernel_;
  const EpilogueKernels* epilogue_;
};

// A norm over rows, in place.
class HeadNormStep final : public Step {
 public:
  HeadNormStep(const HeadRecord::Norm& record, int64_t width, float eps, HeadBuffer at, Isa isa);

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override { return {call.head_rows, 0, 0}; }
  size_t scratch_bytes(int32_t longest) const override;

 private:
  NormWeights weights_;
  HeadBuffer at_;
  const LayerNormKernel* kernel_;
};

// Makes each row of the output one of length 1: x / max(|x|, 1e-12), the sum of squares ascending in double.
class HeadNormalizeStep final : public Step {
 public:
  explicit HeadNormalizeStep(int64_t width) : width_(static_cast<int32_t>(width)) {}

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override { return {call.head_rows, 0, 0}; }

 private:
  int32_t width_;
};

}  // namespace secateur
