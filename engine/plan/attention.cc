#include "plan/attention.h"

#include <cmath>

#include "plan/check.h"

namespace secateur {

AttentionStep::AttentionStep(const AttentionRecord& record, bool over_first, Isa isa)
    : name_(record.name), over_first_(over_first), kernel_(&select_attention(isa)) {
  check(record.num_heads > 0 && record.num_heads <= 256, name_ + ": num_heads must be 1 .. 256");
  check(record.head_dim > 0 && record.head_dim % 4 == 0 && record.head_dim <= 256,
        name_ + ": head_dim must be a multiple of 4, at most 256");
  check_scale(record.query_scale, name_ + ": query_scale");
  check_scale(record.key_scale, name_ + ": key_scale");
  check_scale(record.value_scale, name_ + ": value_scale");
  check(record.query_zero_point >= 0 && record.query_zero_point <= 255, name_ + ": query_zero_point must be 0 .. 255");
  num_heads_ = static_cast<int32_t>(record.num_heads);
  head_dim_ = static_cast<int32_t>(record.head_dim);
  query_zero_point_ = record.query_zero_point;
  const float score_scale = record.query_scale * record.key_scale / std::sqrt(static_cast<float>(head_dim_));
  exponent_scale_ = score_scale * 1.44269504f;  // log2(e)
  value_scale_ = record.value_scale;
}

void AttentionStep::run(Call& call, const Worker& worker) const {
  Rows& rows = over_first_ ? call.first : call.all;
  const int64_t width = static_cast<int64_t>(num_heads_) * head_dim_, tile_bytes = width * kTile;
  AttentionArgs args{};
  args.query_stride = args.key_stride = args.out_stride = tile_bytes;
  args.value_stride = call.value_stride;
  args.head_dim = head_dim_;
  args.query_zero_point = query_zero_point_;
  args.exponent_scale = exponent_scale_;
  args.value_scale = value_scale_;
  args.inv_scale = out.inv_scale;
  args.zero_point = out.zero_point;
  args.scratch = call.scratch[worker.index].data();

  // Work is queries x keys. A worker takes the runs of queries of a head whose start falls into its part of the sum;
  // queries are cut at tiles, so that a vector of queries belongs to one worker.
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
    args.key_begin = call.offsets[s];
    args.key_end = call.offsets[s + 1];
    for (int32_t head = 0; head < num_heads_; ++head) {
      args.query_begin = args.query_end = first;
      for (int32_t q = first; q < last;) {
        const int32_t next = std::min(last, (q / kTile + 1) * kTile);
        if (done >= begin && done < end) {
          if (args.query_end == args.query_begin) args.query_begin = q;
          args.query_end = next;
        }
        done += static_cast<int64_t>(next - q) * keys;
        q = next;
      }
      if (args.query_end == args.query_begin) continue;
      const ptrdiff_t channel = static_cast<ptrdiff_t>(head) * head_dim_;
      args.query = rows.query.data() + channel * kTile;
      args.key = call.key.data() + channel * kTile;
      args.value = call.value.data() + channel * call.value_stride;
      args.out = rows.context.data() + channel * kTile;
      kernel_->run(args);
    }
  }
}

std::vector<StepInfo> AttentionStep::info() const { return {{name_, kernel_->name, 0, 0, 1.0, 0, "u8s8"}}; }

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
