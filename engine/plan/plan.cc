#include "plan/plan.h"

#include <unistd.h>

#include <chrono>

#include "plan/check.h"

namespace secateur {
namespace {

// Tokens that go through the layers together, a thread: enough to reuse weights, few enough for the caches.
constexpr int64_t kGroupTokens = 256;

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

template <class T>
void reserve(AlignedBuffer<T>& buffer, size_t size) {
  if (buffer.size() < size) buffer = AlignedBuffer<T>(size);
}

void reserve(Rows& rows, int32_t tokens, int32_t hidden, int32_t attention, int32_t inner) {
  rows.tokens = tokens;
  rows.tiles = (tokens + kTile - 1) / kTile;
  const size_t slots = static_cast<size_t>(rows.tiles) * kTile;
  reserve(rows.residual, slots * hidden);
  reserve(rows.hidden, slots * hidden);
  reserve(rows.query, slots * attention);
  reserve(rows.context, slots * attention);
  reserve(rows.inner, slots * inner);
}

}  // namespace

// What belongs to one process: a forked child has none of its parent's threads and makes its own.
struct Plan::Threads {
  explicit Threads(int32_t num_threads) : owner(getpid()), pool(num_threads) {}
  const pid_t owner;
  ThreadPool pool;
  std::mutex busy;
  std::mutex calls_mutex;
  std::vector<std::unique_ptr<Call>> idle_calls;
};

Plan::Plan(const PlanDescription& description, Isa isa, int32_t num_threads) : isa_(isa), num_threads_(num_threads) {
  check(num_threads >= 1 && num_threads <= 1024, "num_threads must be 1 .. 1024");
  build(description);
  counters_ = std::vector<Counters>(steps_.size());
  threads();
}

Plan::~Plan() {
  Threads* const mine = threads_.load();
  // After a fork the threads are gone and cannot be joined; their bookkeeping is left behind.
  if (mine != nullptr && mine->owner == getpid()) delete mine;
}

Plan::Threads& Plan::threads() {
  Threads* current = threads_.load(std::memory_order_acquire);
  if (current != nullptr && current->owner == getpid()) return *current;
  auto fresh = std::make_unique<Threads>(num_threads_);
  if (threads_.compare_exchange_strong(current, fresh.get())) return *fresh.release();
  return *current;
}

void Plan::validate(const Batch& batch) const {
  check(batch.batch_size >= 1, "a batch needs at least one sequence");
  check(batch.offsets[0] == 0 && batch.offsets[batch.batch_size] == batch.tokens,
        "offsets must run from 0 to the number of tokens");
  for (int32_t s = 0; s < batch.batch_size; ++s) {
    const int64_t length = static_cast<int64_t>(batch.offsets[s + 1]) - batch.offsets[s];
    if (length < 1) fail("sequence " + std::to_string(s) + " is empty");
    if (length > max_sequence_)
      fail("sequence " + std::to_string(s) + " has " + std::to_string(length) + " tokens; the model takes at most " +
           std::to_string(max_sequence_));
  }
  for (int64_t t = 0; t < batch.tokens; ++t) {
    if (batch.input_ids[t] < 0 || batch.input_ids[t] >= embed_->vocab_size())
      fail("token id " + std::to_string(batch.input_ids[t]) + " at position " + std::to_string(t) +
           " is outside the vocabulary of " + std::to_string(embed_->vocab_size()));
    if (batch.token_type_ids != nullptr &&
        (batch.token_type_ids[t] < 0 || batch.token_type_ids[t] >= embed_->type_vocab_size()))
      fail("a token type id is outside 0 .. " + std::to_string(embed_->type_vocab_size() - 1));
  }
}

void Plan::run(const Batch& batch, float* logits) {
  const int64_t budget = kGroupTokens * num_threads_;
  std::vector<int32_t> offsets;
  const std::vector<int32_t> zeros(batch.token_type_ids == nullptr ? batch.tokens : 0);
  const int32_t* const types = batch.token_type_ids == nullptr ? zeros.data() : batch.token_type_ids;
  for (int32_t first = 0; first < batch.batch_size;) {
    const int32_t start = batch.offsets[first];
    int32_t last = first + 1;
    while (last < batch.batch_size && batch.offsets[last + 1] - start <= budget) ++last;
    offsets.assign(batch.offsets + first, batch.offsets + last + 1);
    for (int32_t& offset : offsets) offset -= start;
    const Batch group{batch.input_ids + start, types + start, offsets.data(), last - first, offsets.back()};
    run_group(group, logits + static_cast<int64_t>(first) * num_labels());
    first = last;
  }
  if (profiling_.load(std::memory_order_relaxed)) profiled_calls_.fetch_add(1, std::memory_order_relaxed);
}

void Plan::run_group(const Batch& batch, float* logits) {
  Threads& mine = threads();
  std::unique_ptr<Call> call;
  {
    const std::lock_guard lock(mine.calls_mutex);
    if (!mine.idle_calls.empty()) {
      call = std::move(mine.idle_calls.back());
      mine.idle_calls.pop_back();
    }
  }
  if (call == nullptr) call = std::make_unique<Call>();
  prepare(*call, batch, logits);

  // A caller that finds the threads at work for another runs alone: throughput is the same, nobody waits.
  std::unique_lock busy(mine.busy, std::defer_lock);
  if (num_threads_ > 1 && busy.try_lock()) {
    Call& shared = *call;
    mine.pool.run([&](int32_t worker) { run_steps(shared, {worker, num_threads_}, &mine.pool.barrier()); });
    busy.unlock();
  } else {
    run_steps(*call, {0, 1}, nullptr);
  }
  const std::lock_guard lock(mine.calls_mutex);
  mine.idle_calls.push_back(std::move(call));
}

void Plan::prepare(Call& call, const Batch& batch, float* logits) const {
  call.input_ids = batch.input_ids;
  call.token_type_ids = batch.token_type_ids;
  call.offsets = batch.offsets;
  call.batch_size = batch.batch_size;
  call.logits = logits;
  const auto tokens = static_cast<int32_t>(batch.tokens);
  reserve(call.all, tokens, hidden_, attention_width_, inner_width_);
  reserve(call.first, batch.batch_size, hidden_, attention_width_, inner_width_);
  const size_t slots = static_cast<size_t>(call.all.tiles) * kTile;
  reserve(call.key, slots * attention_width_);
  // Kernels may read 63 bytes past the last value. An odd number of lines a channel spreads the cache sets.
  call.value_stride = static_cast<int64_t>((slots + 64 + 63) / 64 * 64) | 64;
  reserve(call.value, static_cast<size_t>(call.value_stride) * attention_width_ + 64);
  reserve(call.position, slots);
  int32_t longest = 0;
  for (int32_t s = 0; s < batch.batch_size; ++s) {
    longest = std::max(longest, batch.offsets[s + 1] - batch.offsets[s]);
    for (int32_t t = batch.offsets[s]; t < batch.offsets[s + 1]; ++t) call.position[t] = t - batch.offsets[s];
  }
  size_t bytes = 0;
  for (const auto& step : steps_) bytes = std::max(bytes, step->scratch_bytes(longest));
  call.scratch.resize(static_cast<size_t>(num_threads_));
  for (AlignedBuffer<uint8_t>& scratch : call.scratch) reserve(scratch, bytes);
}

void Plan::run_steps(Call& call, Worker worker, Barrier* barrier) {
  const bool timed = worker.index == 0 && profiling_.load(std::memory_order_relaxed);
  int64_t before = timed ? now() : 0;
  for (size_t i = 0; i < steps_.size(); ++i) {
    steps_[i]->run(call, worker);
    if (barrier != nullptr) barrier->wait();
    if (!timed) continue;
    const int64_t after = now();
    Counters& counters = counters_[i];
    const StepWork work = steps_[i]->work(call);
    counters.nanoseconds.fetch_add(after - before, std::memory_order_relaxed);
    counters.tokens.fetch_add(work.tokens, std::memory_order_relaxed);
    counters.macs.fetch_add(work.macs, std::memory_order_relaxed);
    counters.executed_macs.fetch_add(work.executed_macs, std::memory_order_relaxed);
    before = now();
  }
}

std::vector<Plan::StepProfile> Plan::steps() const {
  std::vector<StepProfile> rows;
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Counters& counters = counters_[i];
    StepProfile row;
    row.step = static_cast<int32_t>(i);
    row.milliseconds = static_cast<double>(counters.nanoseconds.load()) * 1e-6;
    row.work = {counters.tokens.load(), counters.macs.load(), counters.executed_macs.load()};
    for (StepInfo& info : steps_[i]->info()) {
      row.info = std::move(info);
      rows.push_back(row);
      row.milliseconds = 0;
      row.work = {};
    }
  }
  return rows;
}

void Plan::set_profiling(bool on) {
  for (Counters& counters : counters_)
    for (std::atomic<int64_t>* total :
         {&counters.nanoseconds, &counters.tokens, &counters.macs, &counters.executed_macs})
      *total = 0;
  profiled_calls_ = 0;
  profiling_ = on;
}

}  // namespace secateur
