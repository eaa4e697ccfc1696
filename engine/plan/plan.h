// A model ready to run: fused steps over memory that calls reuse.
//
// Build it once; run() may then be called from any number of threads at the same time and cannot fail on input that
// validate() accepts. Results do not depend on the batch, a text's place in it, or the number of threads.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>

#include "base/isa.h"
#include "base/thread_pool.h"
#include "plan/description.h"
#include "plan/head.h"
#include "plan/norm.h"
#include "plan/step.h"

namespace secateur {

// A ragged batch: the tokens of all sequences one after another.
struct Batch {
  const int32_t* input_ids = nullptr;       // [tokens]
  const int32_t* token_type_ids = nullptr;  // [tokens], or nullptr for zeros
  const int32_t* offsets = nullptr;         // [batch_size + 1], from 0, ascending
  int32_t batch_size = 0;
  int64_t tokens = 0;
};

class Plan {
 public:
  // Validates the description, packs the weights and starts the threads. Throws std::invalid_argument.
  Plan(const PlanDescription& description, Isa isa, int32_t num_threads);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Throws std::invalid_argument when an id, type or length is out of range.
  void validate(const Batch& batch) const;
  // logits: [batch_size][num_labels()]. The batch has passed validate().
  void run(const Batch& batch, float* logits);

  Isa isa() const { return isa_; }
  int32_t num_threads() const { return num_threads_; }
  int32_t num_labels() const { return head_->num_labels(); }
  int64_t max_sequence() const { return max_sequence_; }

  // One row a product or other step, in order, with what was done in it since profiling was switched on (a step of
  // several products has its time and work at the first of them).
  struct StepProfile {
    StepInfo info;
    int32_t step = 0;  // rows of one step were timed together
    double milliseconds = 0;
    StepWork work;
  };
  std::vector<StepProfile> steps() const;
  void set_profiling(bool on);
  int64_t profiled_calls() const { return profiled_calls_.load(); }

 private:
  struct Threads;
  void build(const PlanDescription& description);
  void run_group(const Batch& batch, float* logits);
  void run_steps(Call& call, Worker worker, Barrier* barrier);
  void prepare(Call& call, const Batch& batch, float* logits) const;
  Threads& threads();

  Isa isa_;
  int32_t num_threads_;
  int32_t hidden_ = 0, attention_width_ = 0, inner_width_ = 0;  // widest of any layer
  int64_t max_sequence_ = 0;
  std::vector<std::unique_ptr<Step>> steps_;
  const EmbedStep* embed_ = nullptr;
  const HeadStep* head_ = nullptr;

  std::atomic<Threads*> threads_{nullptr};
  std::atomic<bool> profiling_{false};
  struct Counters {
    std::atomic<int64_t> nanoseconds{0}, tokens{0}, macs{0}, executed_macs{0};
  };
  std::vector<Counters> counters_;
  std::atomic<int64_t> profiled_calls_{0};
};

}  // namespace secateur
