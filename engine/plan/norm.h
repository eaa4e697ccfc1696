// Residual norm, quantized forms of the hidden state, and the choice of each sequence's first token.
#pragma once
#include "kernels/epilogue/epilogue.h"
#include "kernels/layer_norm/layer_norm.h"
#include "plan/description.h"
#include "plan/step.h"

namespace secateur {

// Gamma and beta of a norm over [size] channels, checked and kept. Throws std::invalid_argument.
struct NormWeights {
  NormWeights(const std::string& name, const Array<float>& gamma, const Array<float>& beta, int64_t size, float eps);
  int32_t size() const { return static_cast<int32_t>(gamma.size()); }
  // All that does not depend on the tile.
  LayerNormArgs args() const;

  std::vector<float> gamma, beta;
  float eps;
};

// Throws unless there are `size` values, all of them finite.
void check_finite(const Array<float>& values, int64_t size, const std::string& what);

// Normalises the residual in place and writes it quantized for the projections that read it.
class NormStep final : public Step {
 public:
  NormStep(const AddNormRecord& record, int64_t hidden, float eps, bool over_first, Isa isa);

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override { return {(over_first_ ? call.first : call.all).tokens, 0, 0}; }

  HiddenForm form;

 private:
  std::string name_;
  NormWeights weights_;
  bool over_first_;
  const LayerNormKernel* kernel_;
};

// Quantizes the residual where no norm wrote it.
class QuantizeStep final : public Step {
 public:
  QuantizeStep(std::string name, int64_t hidden, Isa isa);

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override { return {call.all.tokens, 0, 0}; }
  size_t scratch_bytes(int32_t) const override { return sizeof(float) * kRowBlock * kTile; }

  HiddenForm form;

 private:
  std::string name_;
  std::vector<float> zeros_;  // [H], the epilogue's bias
  const EpilogueKernels* kernel_;
};

// Copies residual and, where the query projection reads it, quantized hidden state of each sequence's first token into
// Call::first.
class FirstTokenStep final : public Step {
 public:
  FirstTokenStep(int64_t hidden, bool quantized) : hidden_(static_cast<int32_t>(hidden)), quantized_(quantized) {}
  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override { return {call.first.tokens, 0, 0}; }

 private:
  int32_t hidden_;
  bool quantized_;
};

}  // namespace secateur
