// The linear step: one or more int8 products of the same input, each with its epilogue.
#pragma once
#include "kernels/epilogue/epilogue.h"
#include "kernels/product.h"
#include "plan/description.h"
#include "plan/step.h"

namespace secateur {

enum class Sink { kQuery, kKey, kValue, kInner, kResidual };

// One matrix, packed, with what becomes of its sums.
struct LinearPart {
  std::string name;
  const ProductKernel* kernel = nullptr;
  PackedWeights weights;
  int32_t n = 0, k = 0;
  double density = 1.0;
  int64_t stored = 0;              // weights that the kernel multiplies with
  std::vector<float> scale, bias;  // [N] of the accumulator: input_scale * weight_scale, zero point folded in
  Sink sink = Sink::kResidual;
  EpilogueFn epilogue = nullptr;
  OutputScale out;
  const float* gelu = nullptr;

  int32_t row_blocks() const { return (n + kRowBlock - 1) / kRowBlock; }
};

// Packs a matrix for `isa`; validates the record and throws std::invalid_argument. The epilogue's output scale is
// set later, by whoever reads it.
LinearPart make_linear_part(const LinearRecord& record, Isa isa);

enum class Source { kHidden, kContext, kInner };

class LinearStep final : public Step {
 public:
  // `over_first`: only each sequence's first token is computed.
  LinearStep(Source source, bool over_first) : source_(source), over_first_(over_first) {}
  void add(LinearPart part) { parts_.push_back(std::move(part)); }
  std::vector<LinearPart>& parts() { return parts_; }

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override;
  size_t scratch_bytes(int32_t longest) const override;

 private:
  Source source_;
  bool over_first_;
  std::vector<LinearPart> parts_;
};

}  // namespace secateur
