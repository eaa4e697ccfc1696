#include "plan/plan.h"

#include <chrono>

#include "base/fork.h"
#include "plan/check.h"

namespace secateur {
namespace {

// Tokens that go through the layers together, a thread: enough to reuse weights, few enough for the caches.
constexpr int64_t kGroupTokens = 256;

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Both return the bytes that are there afterwards.
template <class T>
size_t reserve(AlignedBuffer<T>& buffer, size_t size) {
  if (buffer.size() < size) {
    buffer = AlignedBuffer<T>();  // first, so that old and new are never there together
    buffer = AlignedBuffer<T>(size);
  }
  return buffer.bytes();
}

size_t reserve(Rows& rows, int32_t tokens, const Widths& widths) {
  const size_t slots = (static_cast<size_t>(tokens) + kTile - 1) / kTile * kTile;
  size_t bytes = reserve(rows.residual, slots * widths.residual);
  bytes += reserve(rows.hidden, slots * widths.hidden);
  bytes += reserve(rows.query, slots * widths.query) + reserve(rows.query_f32, slots * widths.query_f32);
  bytes += reserve(rows.context, slots * widths.context) + reserve(rows.context_f32, slots * widths.context_f32);
  bytes += reserve(rows.inner, slots * widths.inner) + reserve(rows.inner_f32, slots * widths.inner_f32);
  bytes += reserve(rows.rounded, slots * widths.rounded) + reserve(rows.row_scale, slots * widths.row_scale);
  return bytes;
}

void set_tokens(Rows& rows, int32_t tokens) {
  rows.tokens = tokens;
  rows.tiles = (tokens + kTile - 1) / kTile;
}

// Bytes between a channel's values and the next one's. Kernels may read 63 bytes past the last value. An odd number of
// lines a channel spreads the cache sets.
int64_t value_stride(int32_t tiles) { return ((static_cast<int64_t>(tiles) * kTile + 64 + 63) / 64 * 64) | 64; }

}  // namespace

// What belongs to one process: a forked child has none of its parent's threads and makes its own.
struct Plan::Threads {
  explicit Threads(int32_t num_threads) : owner(fork_depth()), pool(num_threads) {}
  const uint64_t owner;
  ThreadPool pool;
  std::mutex busy;
  std::mutex calls_mutex;
  std::vector<std::unique_ptr<Call>> idle_calls;
};

Plan::Plan(std::shared_ptr<const PackedModel> model, int32_t num_threads, int64_t max_tokens)
    : model_(std::move(model)), num_threads_(num_threads), max_tokens_(max_tokens) {
  check(num_threads >= 1 && num_threads <= 1024, "num_threads must be 1 .. 1024");
  check(max_tokens >= 0 && max_tokens <= INT32_MAX, "max_tokens must be at most 2147483647");
  counters_ = std::vector<Counters>(model_->steps().size());
  if (max_tokens_ == 0) {
    threads();
    return;
  }
  auto call = std::make_unique<Call>();
  allot_all(*call);
  threads().idle_calls.push_back(std::move(call));
}

Plan::~Plan() {
  Threads* const mine = threads_.load();
  // After a fork the threads are gone and cannot be joined; their bookkeeping is left behind.
  if (mine != nullptr && mine->owner == fork_depth()) delete mine;
}

Plan::Threads& Plan::threads() {
  Threads* current = threads_.load(std::memory_order_acquire);
  if (current != nullptr && current->owner == fork_depth()) return *current;
  auto fresh = std::make_unique<Threads>(num_threads_);
  if (threads_.compare_exchange_strong(current, fresh.get())) return *fresh.release();
  return *current;
}

// Most tokens of a group, but for a sequence that is longer than max_tokens, which validate() refuses.
int64_t Plan::group_tokens() const {
  const int64_t fast = std::max(kGroupTokens * num_threads_, model_->max_sequence());
  return max_tokens_ == 0 ? fast : std::min(fast, max_tokens_);
}

void Plan::validate(const Batch& batch) const {
  check(batch.batch_size >= 1, "a batch needs at least one sequence");
  check(batch.offsets[0] == 0 && batch.offsets[batch.batch_size] == batch.tokens,
        "offsets must run from 0 to the number of tokens");
  for (int32_t s = 0; s < batch.batch_size; ++s) {
    const int64_t length = static_cast<int64_t>(batch.offsets[s + 1]) - batch.offsets[s];
    if (length < 1) fail("sequence " + std::to_string(s) + " is empty");
    if (length > model_->max_sequence())
      fail("sequence " + std::to_string(s) + " has " + std::to_string(length) + " tokens; the model takes at most " +
           std::to_string(model_->max_sequence()));
    if (max_tokens_ != 0 && length > max_tokens_)
      fail("sequence " + std::to_string(s) + " has " + std::to_string(length) + " tokens; max_tokens is " +
           std::to_string(max_tokens_));
  }
  const int64_t vocab_size = model_->embed().vocab_size(), types = model_->embed().num_token_types();
  for (int64_t t = 0; t < batch.tokens; ++t) {
    if (batch.input_ids[t] < 0 || batch.input_ids[t] >= vocab_size)
      fail("token id " + std::to_string(batch.input_ids[t]) + " at position " + std::to_string(t) +
           " is outside the vocabulary of " + std::to_string(vocab_size));
    if (batch.token_type_ids != nullptr && (batch.token_type_ids[t] < 0 || batch.token_type_ids[t] >= types))
      fail("a token type id is outside 0 .. " + std::to_string(types - 1));
  }
  if (batch.positions == nullptr) return;
  check(model_->head_rows() == HeadRows::kEvery,
        "positions are for heads over every token; this one gives a row a sequence");
  for (int32_t i = 0; i < batch.num_positions; ++i) {
    const int32_t position = batch.positions[i];
    if (position < 0 || position >= batch.tokens)
      fail("position " + std::to_string(position) + " is outside the " + std::to_string(batch.tokens) + " tokens");
    if (i > 0 && position <= batch.positions[i - 1]) fail("positions must ascend");
  }
}

int32_t Plan::output_rows(const Batch& batch) const {
  if (batch.positions != nullptr) return batch.num_positions;
  return model_->head_rows() == HeadRows::kEvery ? static_cast<int32_t>(batch.tokens) : batch.batch_size;
}

void Plan::run(const Batch& batch, float* output) {
  const int64_t budget = std::min(kGroupTokens * num_threads_, group_tokens());
  const int64_t columns = model_->num_outputs();
  std::vector<int32_t> offsets, positions;
  int32_t next_position = 0;
  for (int32_t first = 0; first < batch.batch_size;) {
    const int32_t start = batch.offsets[first];
    int32_t last = first + 1;
    while (last < batch.batch_size && batch.offsets[last + 1] - start <= budget) ++last;
    offsets.assign(batch.offsets + first, batch.offsets + last + 1);
    for (int32_t& offset : offsets) offset -= start;
    const int32_t* const types = batch.token_type_ids == nullptr ? nullptr : batch.token_type_ids + start;
    Batch group{batch.input_ids + start, types, offsets.data(), last - first, offsets.back()};
    first = last;
    if (batch.positions != nullptr) {
      positions.clear();
      for (; next_position < batch.num_positions && batch.positions[next_position] < start + group.tokens;
           ++next_position)
        positions.push_back(batch.positions[next_position] - start);
      if (positions.empty()) continue;
      group.positions = positions.data();
      group.num_positions = static_cast<int32_t>(positions.size());
    }
    run_group(group, output);
    output += output_rows(group) * columns;
  }
  if (profiling_.load(std::memory_order_relaxed)) profiled_calls_.fetch_add(1, std::memory_order_relaxed);
}

void Plan::run_group(const Batch& batch, float* output) {
  Threads& mine = threads();
  std::unique_ptr<Call> call = take_call(mine);
  prepare(*call, batch, output);

  // A caller that finds the threads at work for another runs alone: throughput is the same, nobody waits.
  std::unique_lock busy(mine.busy, std::defer_lock);
  if (num_threads_ > 1 && busy.try_lock()) {
    Call& shared = *call;
    mine.pool.run([&](int32_t worker) { run_steps(shared, {worker, num_threads_}, &mine.pool.barrier()); });
    busy.unlock();
  } else {
    run_steps(*call, {0, 1}, nullptr);
  }
  put_back(mine, std::move(call));
}

std::unique_ptr<Call> Plan::take_call(Threads& mine) {
  {
    const std::lock_guard lock(mine.calls_mutex);
    if (!mine.idle_calls.empty()) {
      std::unique_ptr<Call> call = std::move(mine.idle_calls.back());
      mine.idle_calls.pop_back();
      return call;
    }
  }
  return std::make_unique<Call>();
}

// Once more callers than processors were here at a time, the memory of those who had to wait is given up.
void Plan::put_back(Threads& mine, std::unique_ptr<Call> call) {
  const std::lock_guard lock(mine.calls_mutex);
  if (mine.idle_calls.size() < static_cast<size_t>(mine.pool.processors())) mine.idle_calls.push_back(std::move(call));
}

size_t Plan::arena_bytes() {
  Threads& mine = threads();
  const std::lock_guard lock(mine.calls_mutex);
  size_t bytes = 0;
  for (const std::unique_ptr<Call>& call : mine.idle_calls) bytes += call->bytes;
  return bytes;
}

void Plan::prepare(Call& call, const Batch& batch, float* output) const {
  const auto tokens = static_cast<int32_t>(batch.tokens);
  int32_t longest = 0;
  for (int32_t s = 0; s < batch.batch_size; ++s) longest = std::max(longest, batch.offsets[s + 1] - batch.offsets[s]);
  if (max_tokens_ == 0) {
    allot(call, tokens, batch.batch_size, longest);
  } else {
    allot_all(call);
  }
  call.input_ids = batch.input_ids;
  call.token_type_ids = batch.token_type_ids != nullptr ? batch.token_type_ids : call.zeros.data();
  call.offsets = batch.offsets;
  call.batch_size = batch.batch_size;
  call.positions = batch.positions;
  call.head_rows = output_rows(batch);
  call.output = output;
  set_tokens(call.all, tokens);
  set_tokens(call.first, batch.batch_size);
  call.value_stride = value_stride(call.all.tiles);
  for (int32_t s = 0; s < batch.batch_size; ++s)
    for (int32_t t = batch.offsets[s]; t < batch.offsets[s + 1]; ++t) call.position[t] = t - batch.offsets[s];
}

void Plan::allot_all(Call& call) const {
  const int64_t tokens = group_tokens(), longest = std::min(tokens, model_->max_sequence());
  allot(call, static_cast<int32_t>(tokens), static_cast<int32_t>(tokens), static_cast<int32_t>(longest));
}

// Makes room for groups up to this size; what is there already stays.
void Plan::allot(Call& call, int32_t tokens, int32_t sequences, int32_t longest) const {
  const int32_t tiles = (tokens + kTile - 1) / kTile;
  const size_t slots = static_cast<size_t>(tiles) * kTile;
  const Widths& widths = model_->widths();
  size_t bytes = reserve(call.all, tokens, widths) + reserve(call.first, sequences, widths);
  bytes += reserve(call.key, slots * widths.key_value);
  if (widths.key_value > 0)
    bytes += reserve(call.value, static_cast<size_t>(value_stride(tiles)) * widths.key_value + 64);
  bytes += reserve(call.key_f32, slots * widths.key_value_f32) + reserve(call.value_f32, slots * widths.key_value_f32);
  bytes += reserve(call.position, slots) + reserve(call.zeros, slots);
  bytes += reserve(call.embedding, slots * widths.embedding);
  const auto head_rows = static_cast<size_t>(model_->head_rows() == HeadRows::kEvery ? tokens : sequences);
  for (int i = 0; i < 2; ++i) bytes += reserve(call.head[i], head_rows * widths.head[i]);
  size_t scratch_bytes = 0;
  for (const auto& step : model_->steps()) scratch_bytes = std::max(scratch_bytes, step->scratch_bytes(longest));
  call.scratch.resize(static_cast<size_t>(num_threads_));
  for (AlignedBuffer<uint8_t>& scratch : call.scratch) bytes += reserve(scratch, scratch_bytes);
  call.bytes = bytes;
}

void Plan::run_steps(Call& call, Worker worker, Barrier* barrier) {
  const bool timed = worker.index == 0 && profiling_.load(std::memory_order_relaxed);
  int64_t before = timed ? now() : 0;
  const auto& steps = model_->steps();
  for (size_t i = 0; i < steps.size(); ++i) {
    steps[i]->run(call, worker);
    if (barrier != nullptr) barrier->wait();
    if (!timed) continue;
    const int64_t after = now();
    Counters& counters = counters_[i];
    const StepWork work = steps[i]->work(call);
    counters.nanoseconds.fetch_add(after - before, std::memory_order_relaxed);
    counters.tokens.fetch_add(work.tokens, std::memory_order_relaxed);
    counters.macs.fetch_add(work.macs, std::memory_order_relaxed);
    counters.executed_macs.fetch_add(work.executed_macs, std::memory_order_relaxed);
    before = now();
  }
}

std::vector<Plan::StepProfile> Plan::steps() const {
  std::vector<StepProfile> rows;
  for (size_t i = 0; i < counters_.size(); ++i) {
    const Counters& counters = counters_[i];
    StepProfile row;
    row.step = static_cast<int32_t>(i);
    row.milliseconds = static_cast<double>(counters.nanoseconds.load()) * 1e-6;
    row.work = {counters.tokens.load(), counters.macs.load(), counters.executed_macs.load()};
    for (StepInfo& info : model_->steps()[i]->info()) {
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
