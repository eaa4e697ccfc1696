// The embeddings: the sum of the tables' rows, normalised.
#pragma once
#include "kernels/embedding/embedding.h"
#include "plan/norm.h"

namespace secateur {

class EmbedStep final : public Step {
 public:
  // `width`: channels of the tables. Writes the residual, or, where a projection follows, Call::embedding. Validates
  // the record but for its projection and throws std::invalid_argument.
  EmbedStep(const EmbedRecord& record, int64_t width, float eps, Isa isa);

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override { return {call.all.tokens, 0, 0}; }
  int64_t vocab_size() const { return vocab_size_; }
  int64_t num_token_types() const { return num_token_types_; }
  int64_t max_positions() const { return max_positions_; }

  HiddenForm form;  // none where a projection follows

 private:
  NormWeights weights_;
  bool projected_;
  EmbeddingTable word_, position_, token_type_;
  AlignedBuffer<float> no_types_;  // the one token type of a model that has none: zeros
  int64_t vocab_size_, num_token_types_ = 1, max_positions_;
  const EmbeddingKernel* kernel_;
  const LayerNormKernel* norm_kernel_;
};

// The projection of the embeddings to the hidden size as a linear record. Throws std::invalid_argument.
LinearRecord projection_record(const EmbedRecord& record, int64_t width, int64_t hidden);

// Channels of the tables. Throws std::invalid_argument where the word table has none.
int64_t embedding_width(const EmbedRecord& record);

}  // namespace secateur
