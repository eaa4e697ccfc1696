#include "plan/norm.h"

#include <cmath>
#include <cstring>

#include "plan/check.h"

namespace secateur {

void check_finite(const Array<float>& values, int64_t size, const std::string& what) {
  check(values.size() == size, what + " must have " + std::to_string(size) + " values");
  for (int64_t i = 0; i < size; ++i)
    if (!std::isfinite(values.data[i])) fail(what + " is not finite");
}

NormWeights::NormWeights(const std::string& name, const Array<float>& given_gamma, const Array<float>& given_beta,
                         int64_t size, float given_eps)
    : eps(given_eps) {
  check_finite(given_gamma, size, name + ": gamma");
  check_finite(given_beta, size, name + ": beta");
  check(std::isfinite(eps) && eps >= 0, name + ": norm_eps must be finite and not negative");
  gamma.assign(given_gamma.data, given_gamma.data + size);
  beta.assign(given_beta.data, given_beta.data + size);
}

LayerNormArgs NormWeights::args() const {
  LayerNormArgs args{};
  args.channels = size();
  args.gamma = gamma.data();
  args.beta = beta.data();
  args.eps = eps;
  return args;
}

NormStep::NormStep(const AddNormRecord& record, int64_t hidden, float eps, bool over_first, Isa isa)
    : name_(record.name),
      weights_(record.name, record.gamma, record.beta, hidden, eps),
      over_first_(over_first),
      kernel_(&select_layer_norm(isa)) {}

void NormStep::run(Call& call, const Worker& worker) const {
  Rows& rows = over_first_ ? call.first : call.all;
  for (int64_t tile = worker.begin(rows.tiles); tile < worker.end(rows.tiles); ++tile) {
    const int64_t start = tile * kTile * weights_.size();
    LayerNormArgs args = weights_.args();
    args.h = rows.residual.data() + start;
    args.tokens = rows.tile_tokens(static_cast<int32_t>(tile));
    if (form.out) {
      args.inv_scale = form.out->inv_scale;
      args.zero_point = form.out->zero_point;
      args.out = rows.hidden.data() + start;
      args.order = form.order.empty() ? nullptr : form.order.data();
    }
    kernel_->run(args);
  }
}

std::vector<StepInfo> NormStep::info() const { return {{name_, kernel_->name, 0, 0, 1.0, 0}}; }

QuantizeStep::QuantizeStep(std::string name, int64_t hidden, Isa isa)
    : name_(std::move(name)), zeros_(static_cast<size_t>(hidden)), kernel_(&select_epilogue(isa)) {}

void QuantizeStep::run(Call& call, const Worker& worker) const {
  const auto hidden = static_cast<int32_t>(zeros_.size());
  const int32_t blocks = (hidden + kRowBlock - 1) / kRowBlock;
  const int64_t units = static_cast<int64_t>(call.all.tiles) * blocks;
  auto* const ordered = reinterpret_cast<float*>(call.scratch[worker.index].data());
  for (int64_t unit = worker.begin(units); unit < worker.end(units); ++unit) {
    const auto tile = static_cast<int32_t>(unit / blocks), block = static_cast<int32_t>(unit % blocks);
    const ptrdiff_t start = static_cast<ptrdiff_t>(tile) * kTile * hidden;
    const float* const residual = call.all.residual.data() + start;
    EpilogueArgs args{};
    args.bias = zeros_.data();
    args.row_begin = block * kRowBlock;
    args.rows = std::min(kRowBlock, hidden - args.row_begin);
    args.tokens = call.all.tile_tokens(tile);
    args.inv_scale = form.out->inv_scale;
    args.zero_point = form.out->zero_point;
    args.out = call.all.hidden.data() + start;
    args.acc_f32 = residual + static_cast<ptrdiff_t>(args.row_begin) * kTile;
    if (!form.order.empty()) {
      for (int32_t r = 0; r < args.rows; ++r)
        std::memcpy(ordered + r * kTile, residual + form.order[args.row_begin + r] * kTile, sizeof(float) * kTile);
      args.acc_f32 = ordered;
    }
    kernel_->f32->u8(args);
  }
}

std::vector<StepInfo> QuantizeStep::info() const { return {{name_, kernel_->name, 0, 0, 1.0, 0}}; }

void FirstTokenStep::run(Call& call, const Worker& worker) const {
  const ptrdiff_t tile_size = static_cast<ptrdiff_t>(kTile) * hidden_;
  for (auto s = static_cast<int32_t>(worker.begin(call.batch_size)); s < worker.end(call.batch_size); ++s) {
    const int32_t token = call.offsets[s];
    const float* from = call.all.residual.data() + token / kTile * tile_size + token % kTile;
    float* to = call.first.residual.data() + s / kTile * tile_size + s % kTile;
    for (int32_t n = 0; n < hidden_; ++n) to[n * kTile] = from[n * kTile];
    if (!quantized_) continue;
    const uint8_t* from_word = call.all.hidden.data() + token / kTile * tile_size + token % kTile * kBlock;
    uint8_t* to_word = call.first.hidden.data() + s / kTile * tile_size + s % kTile * kBlock;
    for (int32_t n = 0; n < hidden_ / kBlock; ++n)
      std::memcpy(to_word + n * kTile * kBlock, from_word + n * kTile * kBlock, kBlock);
  }
}

std::vector<StepInfo> FirstTokenStep::info() const { return {{"first_token", "copy", 0, 0, 1.0, 0}}; }

}  // namespace secateur
