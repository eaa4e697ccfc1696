#include "plan/head.h"

#include <cmath>
#include <cstring>

#include "plan/check.h"

namespace secateur {

HeadStep::Layer HeadStep::make_layer(const Array<float>& weight, const Array<float>& bias, int64_t hidden,
                                     const std::string& name) {
  check(weight.shape.size() == 2 && weight.shape[1] == hidden && weight.shape[0] > 0 && weight.shape[0] <= (1 << 20),
        name + ": weight must be [rows, " + std::to_string(hidden) + "]");
  const int64_t rows = weight.shape[0];
  check(bias.size() == rows, name + ": bias must have a value a row");
  Layer layer;
  layer.n_padded = static_cast<int32_t>((rows + kGemvLanes - 1) / kGemvLanes * kGemvLanes);
  layer.w = AlignedBuffer<float>(static_cast<size_t>(hidden) * layer.n_padded);
  layer.bias = AlignedBuffer<float>(static_cast<size_t>(layer.n_padded));
  for (int64_t n = 0; n < rows; ++n) {
    if (!std::isfinite(bias.data[n])) fail(name + ": bias is not finite");
    layer.bias[n] = bias.data[n];
    for (int64_t k = 0; k < hidden; ++k) {
      if (!std::isfinite(weight.data[n * hidden + k])) fail(name + ": weight is not finite");
      layer.w[k * layer.n_padded + n] = weight.data[n * hidden + k];
    }
  }
  return layer;
}

HeadStep::HeadStep(const HeadRecord& record, int64_t hidden, Isa isa)
    : hidden_(static_cast<int32_t>(hidden)),
      num_labels_(0),
      has_pooler_(record.pooler_weight.data != nullptr),
      kernel_(&select_gemv_f32(isa)) {
  if (has_pooler_) {
    check(record.pooler_weight.shape == std::vector<int64_t>{hidden, hidden}, "pooler: weight must be square");
    pooler_ = make_layer(record.pooler_weight, record.pooler_bias, hidden, "pooler");
  }
  classifier_ = make_layer(record.weight, record.bias, hidden, "classifier");
  num_labels_ = static_cast<int32_t>(record.weight.shape[0]);
}

void HeadStep::run(Call& call, const Worker& worker) const {
  auto* const x = reinterpret_cast<float*>(call.scratch[worker.index].data());
  float* const pooled = x + hidden_;
  float* const logits = pooled + hidden_ + kGemvLanes;
  for (auto s = static_cast<int32_t>(worker.begin(call.batch_size)); s < worker.end(call.batch_size); ++s) {
    const float* h = call.first.residual.data() + static_cast<ptrdiff_t>(s / kTile) * kTile * hidden_ + s % kTile;
    for (int32_t n = 0; n < hidden_; ++n) x[n] = h[n * kTile];
    const float* features = x;
    if (has_pooler_) {
      kernel_->run({x, pooler_.w.data(), pooler_.bias.data(), pooled, hidden_, pooler_.n_padded});
      for (int32_t n = 0; n < hidden_; ++n) pooled[n] = std::tanh(pooled[n]);
      features = pooled;
    }
    kernel_->run({features, classifier_.w.data(), classifier_.bias.data(), logits, hidden_, classifier_.n_padded});
    std::memcpy(call.logits + static_cast<ptrdiff_t>(s) * num_labels_, logits, sizeof(float) * num_labels_);
  }
}

std::vector<StepInfo> HeadStep::info() const {
  std::vector<StepInfo> rows;
  if (has_pooler_)
    rows.push_back(
        {"pooler", kernel_->name, hidden_, hidden_, 1.0, static_cast<int64_t>(pooler_.w.bytes()), "f32", 1, hidden_});
  rows.push_back({"classifier", kernel_->name, num_labels_, hidden_, 1.0, static_cast<int64_t>(classifier_.w.bytes()),
                  "f32", 1, num_labels_});
  return rows;
}

StepWork HeadStep::work(const Call& call) const {
  const int64_t rows = num_labels_ + (has_pooler_ ? hidden_ : 0);
  const int64_t macs = call.batch_size * rows * hidden_;
  return {call.batch_size, macs, macs};
}

size_t HeadStep::scratch_bytes(int32_t) const {
  return sizeof(float) * (2 * hidden_ + 2 * kGemvLanes + static_cast<size_t>(classifier_.n_padded));
}

}  // namespace secateur
