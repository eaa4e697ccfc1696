// Embedding, residual norm, and the choice of each sequence's first token.
#pragma once
#include "kernels/embedding/embedding.h"
#include "kernels/layer_norm/layer_norm.h"
#include "plan/description.h"
#include "plan/step.h"

namespace secateur {

// Normalises the residual in place and writes it quantized for the projections that read it.
class NormStep : public Step {
 public:
  NormStep(const std::string& name, const Array<float>& gamma, const Array<float>& beta, int64_t hidden, float eps,
           bool over_first, Isa isa);

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override { return {(over_first_ ? call.first : call.all).tokens, 0, 0}; }

  Output out;                   // of the quantized form; none where nothing reads it
  std::vector<uint16_t> order;  // of its channels; empty: their own

 protected:
  void normalise(Rows& rows, int32_t tile) const;
  int32_t hidden() const { return static_cast<int32_t>(gamma_.size()); }

 private:
  std::string name_;
  std::vector<float> gamma_, beta_;
  float eps_;
  bool over_first_;
  const LayerNormKernel* kernel_;
};

class EmbedStep final : public NormStep {
 public:
  EmbedStep(const EmbedRecord& record, int64_t hidden, float eps, Isa isa);

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  int64_t vocab_size() const { return vocab_size_; }
  int64_t type_vocab_size() const { return type_vocab_size_; }
  int64_t max_positions() const { return max_positions_; }

 private:
  EmbeddingTable word_, position_, token_type_;
  int64_t vocab_size_, type_vocab_size_, max_positions_;
  const EmbeddingKernel* kernel_;
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
