// A packed model ready to run, with threads and memory of its own.
//
// Build it once; run() may then be called from any number of threads at the same time and cannot fail on input that
// validate() accepts, but for want of memory or, in a forked child, of threads. Results do not depend on the batch, a
// text's place in it, the number of threads or max_tokens.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>

#include "base/thread_pool.h"
#include "plan/packed_model.h"
#include "plan/step.h"

namespace secateur {

// A ragged batch: the tokens of all sequences one after another.
struct Batch {
  const int32_t* input_ids = nullptr;       // [tokens]
  const int32_t* token_type_ids = nullptr;  // [tokens], or nullptr for zeros
  const int32_t* offsets = nullptr;         // [batch_size + 1], from 0, ascending
  int32_t batch_size = 0;
  int64_t tokens = 0;
  // [num_positions] ascending: the tokens that a head over every token is asked for; nullptr: all of them.
  const int32_t* positions = nullptr;
  int32_t num_positions = 0;
};

class Plan {
 public:
  // Starts the threads. `max_tokens`: how many tokens may go through the layers together; memory for one call of that
  // size is then allotted at once. 0 leaves it at what is fast, and allots memory as calls need it. Throws
  // std::invalid_argument, or std::runtime_error where the system refuses a thread.
  Plan(std::shared_ptr<const PackedModel> model, int32_t num_threads, int64_t max_tokens = 0);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Throws std::invalid_argument when an id, type, length or position is out of range.
  void validate(const Batch& batch) const;
  // How many rows run() gives: one a sequence, or one a token or position where the head asks every token.
  int32_t output_rows(const Batch& batch) const;
  // output: [output_rows(batch)][num_outputs()]. The batch has passed validate().
  void run(const Batch& batch, float* output);

  const PackedModel& model() const { return *model_; }
  int32_t num_threads() const { return num_threads_; }
  int64_t max_tokens() const { return max_tokens_; }
  // Bytes that this process keeps for later calls: activations, not weights. Each call that runs beside others has
  // memory of its own; as many are kept as there are processors to run them.
  size_t arena_bytes();

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
  void run_group(const Batch& batch, float* output);
  void run_steps(Call& call, Worker worker, Barrier* barrier);
  std::unique_ptr<Call> take_call(Threads& mine);
  void put_back(Threads& mine, std::unique_ptr<Call> call);
  void prepare(Call& call, const Batch& batch, float* output) const;
  void allot(Call& call, int32_t tokens, int32_t sequences, int32_t longest) const;
  void allot_all(Call& call) const;
  int64_t group_tokens() const;
  Threads& threads();

  const std::shared_ptr<const PackedModel> model_;
  const int32_t num_threads_;
  const int64_t max_tokens_;

  std::atomic<Threads*> threads_{nullptr};
  std::atomic<bool> profiling_{false};
  struct Counters {
    std::atomic<int64_t> nanoseconds{0}, tokens{0}, macs{0}, executed_macs{0};
  };
  std::vector<Counters> counters_;
  std::atomic<int64_t> profiled_calls_{0};
};

}  // namespace secateur
