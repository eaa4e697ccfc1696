#include "plan/attention.h"

#include <cmath>

#include "plan/check.h"

namespace secateur {

AttentionStep::AttentionStep(const AttentionRecord& record, const Output& out, bool over_first, Isa isa)
    : name_(record.name), out_(out), over_first_(over_first) {
  check(record.num_heads > 0 && record.num_heads <= 256, name_ + ": num_heads must be 1 .. 256");
  check(record.head_dim > 0 && record.head_dim % 4 == 0 && record.head_dim <= 256,
        name_ + ": head_dim must be a multiple of 4, at most 256");
  num_heads_ = static_cast<int32_t>(record.num_heads);
  head_dim_ = static_cast<int32_t>(record.head_dim);
  float score_scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
  if (record.scales) {
    const AttentionScales& scales = *record.scales;
    check_scale(scales.query, name_ + ": query_scale");
    check_scale(scales.key, name_ + ": key_scale");
    check_scale(scales.value, name_ + ": value_scale");
    check(scales.query_zero_point >= 0 && scales.query_zero_point <= 255,
          name_ + ": query_zero_point must be 0 .. 255");
    query_zero_point_ = scales.query_zero_point;
    value_scale_ = scales.value;
    score_scale = scales.query * scales.key / std::sqrt(static_cast<float>(head_dim_));
    kernel_ = &select_attention(isa);
  } else {
    kernel_f32_ = &select_attention_f32(isa);
  }
  exponent_scale_ = score_scale * 1.44269504f;  // log2(e)
  check(std::isfinite(exponent_scale_), name_ + ": query_scale times key_scale is too large for a float");
}

// Work is queries x keys. A worker takes the runs of queries of a head whose start falls into its part of the sum;
// queries are cut at tiles, so that a vector of queries belongs to one worker.
template <class Attend>
void AttentionStep::share_out(const Call& call, const Worker& worker, Attend attend) const {
  int64_t total = 0;
  const auto queries_of = [&](int32_t s) { return over_first_ ? 1 : call.offsets[s + 1] - call.offsets[s]; };
  for (int32_t s = 0; s < call.batch_size; ++s)
    total += static_cast<int64_t>(queries_of(s)) * (call.offsets[s + 1] - call.offsets[s]);
  total *= num_heads_;
  const int64_t begin = worker.begin(total), end = worker.end(total);
  int64_t done = 0;
  for (int32_t s = 0; s < call.batch_size && done < end; ++s) {
    const int32_t keys = call.offsets[s + 1] - call.offsets[s];
    const int32_t first = over_first_ ? s : call.offsets[s], last = first + queries_of(s);
    Work work{0, 0, 0, call.offsets[s], call.offsets[s + 1]};
    for (work.head = 0; work.head < num_heads_; ++work.head) {
      work.query_begin = work.query_end = first;
      for (int32_t q = first; q < last;) {
        const int32_t next = std::min(last, (q / kTile + 1) * kTile);
        if (done >= begin && done < end) {
          if (work.query_end == work.query_begin) work.query_begin = q;
          work.query_end = next;
        }
        done += static_cast<int64_t>(next - q) * keys;
        q = next;
      }
      if (work.query_end != work.query_begin) attend(work);
    }
  }
}

void AttentionStep::run_s8(Call& call, const Worker& worker) const {
  Rows& rows = over_first_ ? call.first : call.all;
  const int64_t tile_bytes = static_cast<int64_t>(num_heads_) * head_dim_ * kTile;
  AttentionArgs args{};
  args.query_stride = args.key_stride = args.out_stride = tile_bytes;
  args.value_stride = call.value_stride;
  args.head_dim = head_dim_;
  args.query_zero_point = query_zero_point_;
  args.exponent_scale = exponent_scale_;
  args.value_scale = value_scale_;
  args.scratch = call.scratch[worker.index].data();
  if (out_) {
    args.inv_scale = out_->inv_scale;
    args.zero_point = out_->zero_point;
  }
  share_out(call, worker, [&](const Work& work) {
    const ptrdiff_t channel = static_cast<ptrdiff_t>(work.head) * head_dim_;
    args.query = rows.query.data() + channel * kTile;
    args.key = call.key.data() + channel * kTile;
    args.value = call.value.data() + channel * call.value_stride;
    args.out = out_ ? rows.context.data() + channel * kTile : nullptr;
    args.out_f32 = out_ ? nullptr : rows.context_f32.data() + channel * kTile;
    args.query_begin = work.query_begin;
    args.query_end = work.query_end;
    args.key_begin = work.key_begin;
    args.key_end = work.key_end;
    kernel_->run(args);
  });
}

void AttentionStep::run_f32(Call& call, const Worker& worker) const {
  Rows& rows = over_first_ ? call.first : call.all;
  AttentionF32Args args{};
  args.query_stride = args.key_stride = args.out_stride = static_cast<int64_t>(num_heads_) * head_dim_ * kTile;
  args.head_dim = head_dim_;
  args.exponent_scale = exponent_scale_;
  args.scratch = call.scratch[worker.index].data();
  if (out_) {
    args.inv_scale = out_->inv_scale;
    args.zero_point = out_->zero_point;
  }
  share_out(call, worker, [&](const Work& work) {
    const ptrdiff_t channel = static_cast<ptrdiff_t>(work.head) * head_dim_;
    args.query = rows.query_f32.data() + channel * kTile;
    args.key = call.key_f32.data() + channel * kTile;
    args.value = call.value_f32.data() + channel * kTile;
    args.out = out_ ? rows.context.data() + channel * kTile : nullptr;
    args.out_f32 = out_ ? nullptr : rows.context_f32.data() + channel * kTile;
    args.query_begin = work.query_begin;
    args.query_end = work.query_end;
    args.key_begin = work.key_begin;
    args.key_end = work.key_end;
    kernel_f32_->run(args);
  });
}

void AttentionStep::run(Call& call, const Worker& worker) const {
  if (kernel_f32_ != nullptr)
    run_f32(call, worker);
  else
    run_s8(call, worker);
}

std::vector<StepInfo> AttentionStep::info() const {
  return {{name_, kernel_f32_ != nullptr ? kernel_f32_->name : kernel_->name, 0, 0, 1.0, 0,
           kernel_f32_ != nullptr ? "f32" : "u8s8"}};
}

size_t AttentionStep::scratch_bytes(int32_t longest) const {
  return kernel_f32_ != nullptr ? attention_f32_scratch_bytes(longest) : attention_scratch_bytes(longest, head_dim_);
}

StepWork AttentionStep::work(const Call& call) const {
  StepWork work{(over_first_ ? call.first : call.all).tokens, 0, 0};
  for (int32_t s = 0; s < call.batch_size; ++s) {
    const int64_t keys = call.offsets[s + 1] - call.offsets[s];
    work.macs += 2 * (over_first_ ? 1 : keys) * keys * num_heads_ * head_dim_;  // scores and values
  }
  work.executed_macs = work.macs;
  return work;
}

}  // namespace secateur
