// What a description becomes: fused steps with their packed weights. Built once and never written again, so that any
// number of plans may share it, and forked children too.
#pragma once
#include <memory>
#include <vector>

#include "base/isa.h"
#include "plan/description.h"
#include "plan/embed.h"
#include "plan/head.h"
#include "plan/step.h"

namespace secateur {

class PackedModel {
 public:
  // Validates the description, chooses the kernels and packs the weights, on `threads` threads (0: as many as there are
  // processors for the process), which are gone afterwards. Throws std::invalid_argument.
  PackedModel(const PlanDescription& description, Isa isa, int32_t threads = 0) : isa_(isa) {
    build(description, threads);
  }
  PackedModel(const PackedModel&) = delete;
  PackedModel& operator=(const PackedModel&) = delete;

  Isa isa() const { return isa_; }
  const std::vector<std::unique_ptr<Step>>& steps() const { return steps_; }
  const EmbedStep& embed() const { return *embed_; }
  // Rows and columns of what a call gives.
  HeadRows head_rows() const { return head_.rows; }
  int32_t num_outputs() const { return head_.num_outputs; }
  int64_t max_sequence() const { return max_sequence_; }
  const Widths& widths() const { return widths_; }

 private:
  void build(const PlanDescription& description, int32_t threads);

  Isa isa_;
  Widths widths_;
  int64_t max_sequence_ = 0;
  std::vector<std::unique_ptr<Step>> steps_;
  const EmbedStep* embed_ = nullptr;
  Head head_;
};

}  // namespace secateur
