// The linear step: one or more products of the same input, int8 or float32 each, each with its epilogue.
#pragma once
#include "kernels/epilogue/epilogue.h"
#include "kernels/product.h"
#include "kernels/product_f32.h"
#include "plan/description.h"
#include "plan/step.h"

namespace secateur {

enum class Sink { kQuery, kKey, kValue, kInner, kResidual, kHidden };

// One matrix, packed, with what becomes of its sums.
struct LinearPart {
  std::string name;
  const ProductKernel* kernel = nullptr;         // of an int8 matrix
  const ProductF32Kernel* kernel_f32 = nullptr;  // of a float32 or bfloat16 matrix
  bool rounds = false;                           // bfloat16: it reads what a RoundStep wrote
  PackedWeights weights;
  int32_t n = 0, k = 0;
  double density = 1.0;
  int64_t stored = 0;          // weights that the kernel multiplies with
  bool dynamic = false;        // int8 only: it reads what a QuantizeRowsStep wrote
  std::vector<float> scale;    // int8 only: [N] of the accumulator, input_scale * weight_scale; dynamic: weight_scale
  std::vector<float> bias;     // [N]; int8: zero point folded in, unless it is dynamic
  std::vector<int32_t> start;  // dynamic only: [N] the zero point's share of the sums
  Sink sink = Sink::kResidual;
  EpilogueFn epilogue = nullptr;
  Output out;  // not used by what is added to the residual
  const float* gelu = nullptr;

  const char* type() const { return kernel_f32 == nullptr ? "u8s8" : rounds ? "bf16" : "f32"; }
  const char* kernel_name() const { return kernel_f32 != nullptr ? kernel_f32->name : kernel->name; }
  int32_t row_blocks() const { return (n + kRowBlock - 1) / kRowBlock; }
};

// Validates all of a record but its weights, and says what becomes of the sums: its output as the reader takes it (what
// is added to the residual is not asked). Throws std::invalid_argument.
LinearPart make_linear_part(const LinearRecord& record, const Output& out, Isa isa);

// Packs the weights of that record for `isa`, its rows in the reader's order (its own where that is empty): the part
// that takes time. Throws std::invalid_argument where they are unsound.
void pack_linear_part(const LinearRecord& record, const Array<uint16_t>& row_order, Isa isa, LinearPart& part);

enum class Source { kHidden, kContext, kInner, kEmbedding };

// Where a source is kept in float32. The hidden state in float32 is the residual itself: after a norm it holds what the
// norm wrote.
inline const AlignedBuffer<float>& float_source(Source source, const Call& call, const Rows& rows) {
  return source == Source::kHidden    ? rows.residual
         : source == Source::kContext ? rows.context_f32
         : source == Source::kInner   ? rows.inner_f32
                                      : call.embedding;
}

class LinearStep final : public Step {
 public:
  // `over_first`: only each sequence's first token is computed.
  LinearStep(Source source, bool over_first) : source_(source), over_first_(over_first) {}
  // `packed_here`: no earlier step has the same part.
  void add(std::shared_ptr<const LinearPart> part, bool packed_here) {
    parts_.push_back({std::move(part), packed_here});
  }

  void run(Call& call, const Worker& worker) const override;
  std::vector<StepInfo> info() const override;
  StepWork work(const Call& call) const override;
  size_t scratch_bytes(int32_t longest) const override;

 private:
  struct Entry {
    std::shared_ptr<const LinearPart> part;
    bool packed_here;
  };
  // The sums of one row block and tile.
  void multiply(const LinearPart& part, const Call& call, int32_t block, int32_t tile, bool prefetch,
                uint8_t* acc) const;
  Source source_;
  bool over_first_;
  std::vector<Entry> parts_;
};

}  // namespace secateur
