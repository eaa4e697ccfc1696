#include "plan/head.h"

#include <cmath>

#include "plan/check.h"

namespace secateur {
namespace {

constexpr int64_t kMaxRows = 1 << 20;
constexpr int64_t kMaxCols = 16384;

float* rows_at(Call& call, HeadBuffer buffer) {
  return buffer == HeadBuffer::kOutput ? call.output : call.head[buffer == HeadBuffer::kFirst ? 0 : 1].data();
}

// Reads in place what has as many values as its shape says: `weight` is [rows, columns].
template <class T>
const T* check_matrix(const Array<T>& weight, int64_t columns, const std::string& name) {
  check(weight.shape.size() == 2 && weight.shape[1] == columns && weight.shape[0] > 0 && weight.shape[0] <= kMaxRows,
        name + ": weight must be [rows, " + std::to_string(columns) + "], with 1 .. 1048576 rows");
  return weight.data;
}

// Whether the rows of `weight` are rows of `table`.
bool is_part(const Weights& weight, const Weights& table) {
  return std::visit(
      [&](const auto& part) {
        const auto* whole = std::get_if<std::decay_t<decltype(part)>>(&table);
        return whole != nullptr && part.data >= whole->data && part.data + part.size() <= whole->data + whole->size();
      },
      weight);
}

constexpr int32_t kNumColumns = 64;  // of a unit: a row's columns by threads

}  // namespace

Head make_head(const HeadRecord& record, const Weights& word, int64_t hidden, float eps, Isa isa,
               std::vector<std::unique_ptr<Step>>& steps) {
  Head head{record.rows};
  int64_t width = hidden;
  HeadBuffer at = record.dense || record.output ? HeadBuffer::kFirst : HeadBuffer::kOutput;
  steps.push_back(std::make_unique<HeadRowsStep>(record.rows, hidden, at));
  if (at == HeadBuffer::kFirst) head.widths[0] = static_cast<int32_t>(width);
  if (record.dense) {
    const HeadBuffer to = record.output ? HeadBuffer::kSecond : HeadBuffer::kOutput;
    check(record.dense->activation != Activation::kNone, "head.dense: has no activation");
    auto dense =
        std::make_unique<HeadDenseStep>("head.dense", record.dense->weight, Array<float>(), record.dense->bias,
                                        record.dense->activation, width, /*held_elsewhere=*/false, at, to, isa);
    width = dense->num_rows();
    check(width % 4 == 0 && width <= kMaxCols, "head.dense: rows must be a multiple of 4, at most 16384");
    if (to == HeadBuffer::kSecond) head.widths[1] = static_cast<int32_t>(width);
    steps.push_back(std::move(dense));
    at = to;
  }
  if (record.norm) {
    check(record.dense.has_value(), "head.norm: stands after a dense layer, and there is none");
    steps.push_back(std::make_unique<HeadNormStep>(*record.norm, width, eps, at, isa));
  }
  if (record.output) {
    const bool tied = is_part(record.output->weight, word);
    auto output =
        std::make_unique<HeadDenseStep>("head.output", record.output->weight, record.output->scale, record.output->bias,
                                        std::nullopt, width, tied, at, HeadBuffer::kOutput, isa);
    width = output->num_rows();
    steps.push_back(std::move(output));
  }
  if (record.normalize) steps.push_back(std::make_unique<HeadNormalizeStep>(width));
  head.num_outputs = static_cast<int32_t>(width);
  return head;
}

void HeadRowsStep::run(Call& call, const Worker& worker) const {
  const int32_t blocks = (hidden_ + kNumColumns - 1) / kNumColumns;
  const int64_t units = static_cast<int64_t>(call.head_rows) * blocks;
  const ptrdiff_t tile_size = static_cast<ptrdiff_t>(kTile) * hidden_;
  const float* const h = (rows_ == HeadRows::kFirst ? call.first : call.all).residual.data();
  float* const out = rows_at(call, to_);
  // Column blocks outside, rows inside: what a tile's neighbours bring into the cache is used while it is there.
  for (int64_t unit = worker.begin(units); unit < worker.end(units); ++unit) {
    const auto block = static_cast<int32_t>(unit / call.head_rows), row = static_cast<int32_t>(unit % call.head_rows);
    const int32_t begin = block * kNumColumns, count = std::min(kNumColumns, hidden_ - begin);
    float* const to = out + static_cast<ptrdiff_t>(row) * hidden_ + begin;
    const auto values = [&](int32_t token) {
      return h + token / kTile * tile_size + static_cast<ptrdiff_t>(begin) * kTile + token % kTile;
    };
    if (rows_ == HeadRows::kFirst || rows_ == HeadRows::kEvery) {
      const float* from = values(call.positions != nullptr ? call.positions[row] : row);
      for (int32_t n = 0; n < count; ++n) to[n] = from[n * kTile];
      continue;
    }
    float pooled[kNumColumns];
    const int32_t first = call.offsets[row], last = call.offsets[row + 1];
    const float* from = values(first);
    for (int32_t n = 0; n < count; ++n) pooled[n] = from[n * kTile];
    for (int32_t token = first + 1; token < last; ++token) {
      from = values(token);
      if (rows_ == HeadRows::kMean)
        for (int32_t n = 0; n < count; ++n) pooled[n] += from[n * kTile];
      else
        for (int32_t n = 0; n < count; ++n) pooled[n] = std::max(pooled[n], from[n * kTile]);
    }
    const float divisor = rows_ == HeadRows::kMean ? static_cast<float>(last - first) : 1.0f;
    for (int32_t n = 0; n < count; ++n) to[n] = pooled[n] / divisor;
  }
}

std::vector<StepInfo> HeadRowsStep::info() const {
  const char* const kernel = rows_ == HeadRows::kMean ? "mean" : rows_ == HeadRows::kMax ? "max" : "rows";
  return {{"head.rows", kernel, 0, 0, 1.0, 0}};
}

StepWork HeadRowsStep::work(const Call& call) const {
  const bool pools = rows_ == HeadRows::kMean || rows_ == HeadRows::kMax;
  return {pools ? call.all.tokens : call.head_rows, 0, 0};
}

HeadDenseStep::HeadDenseStep(const std::string& name, const Weights& weight, const Array<float>& scale,
                             const Array<float>& bias, std::optional<Activation> activation, int64_t columns,
                             bool held_elsewhere, HeadBuffer from, HeadBuffer to, Isa isa)
    : name_(name),
      activation_(activation),
      k_(static_cast<int32_t>(columns)),
      from_(from),
      to_(to),
      kernel_(&select_dot(isa)),
      epilogue_(&select_epilogue(isa)) {
  if (is_f32(weight)) {
    const auto& values = std::get<Array<float>>(weight);
    weight_f32_ = check_matrix(values, columns, name);
    n_ = static_cast<int32_t>(values.shape[0]);
    check(scale.shape.empty(), name + ": a float32 matrix has no scale");
    if (!held_elsewhere) check_finite(values, values.size(), name + ": weight");
  } else {
    const auto& values = std::get<Array<int8_t>>(weight);
    weight_s8_ = check_matrix(values, columns, name);
    n_ = static_cast<int32_t>(values.shape[0]);
    check(scale.size() == n_, name + ": weight_scale must have a value a row");
    for (int32_t n = 0; n < n_; ++n)
      if (!is_scale(scale.data[n])) fail(name + ": weight_scale must be finite and positive");
    scale_.assign(scale.data, scale.data + n_);
  }
  check_finite(bias, n_, name + ": bias");
  bias_.assign(bias.data, bias.data + n_);
  const int64_t size = static_cast<int64_t>(n_) * k_;
  bytes_ = held_elsewhere ? 0 : size * static_cast<int64_t>(weight_f32_ != nullptr ? sizeof(float) : sizeof(int8_t));
}

void HeadDenseStep::run(Call& call, const Worker& worker) const {
  const int32_t tiles = (call.head_rows + kTile - 1) / kTile, blocks = (n_ + kRowBlock - 1) / kRowBlock;
  const int64_t units = static_cast<int64_t>(tiles) * blocks;
  auto* const sums = reinterpret_cast<float*>(call.scratch[worker.index].data());
  const float* const x = rows_at(call, from_);
  float* const y = rows_at(call, to_);
  // Units are (row block, tile) in that order: large weights come from memory once for all tiles of a worker.
  for (int64_t unit = worker.begin(units); unit < worker.end(units); ++unit) {
    const auto tile = static_cast<int32_t>(unit % tiles), first = static_cast<int32_t>(unit / tiles) * kRowBlock;
    const int64_t token = static_cast<int64_t>(tile) * kTile;
    const ptrdiff_t weights = static_cast<ptrdiff_t>(first) * k_;
    float* const out = y + token * n_ + first;
    DotArgs args{};
    args.x = x + token * k_;
    args.w_f32 = weight_f32_ != nullptr ? weight_f32_ + weights : nullptr;
    args.w_s8 = weight_s8_ != nullptr ? weight_s8_ + weights : nullptr;
    args.k = k_;
    args.rows = std::min(kRowBlock, n_ - first);
    args.tokens = static_cast<int32_t>(std::min<int64_t>(kTile, call.head_rows - token));
    args.y = activation_ ? sums : out;
    args.token_stride = activation_ ? 1 : n_;
    args.row_stride = activation_ ? kTile : 1;
    kernel_->run(args);
    if (activation_) {
      activate(sums, first, args.rows, args.tokens, sums + kRowBlock * kTile, out);
      continue;
    }
    for (int32_t t = 0; t < args.tokens; ++t) {
      float* const row = out + static_cast<ptrdiff_t>(t) * n_;
      if (weight_s8_ != nullptr)
        for (int32_t n = 0; n < args.rows; ++n) row[n] *= scale_[first + n];
      for (int32_t n = 0; n < args.rows; ++n) row[n] += bias_[first + n];
    }
  }
}

// Bias and activation of a block of sums [rows][32]; `activated` is as large, `out` the block's part of the rows.
void HeadDenseStep::activate(const float* sums, int32_t first, int32_t rows, int32_t tokens, float* activated,
                             float* out) const {
  EpilogueArgs args{};
  args.acc_f32 = sums;
  args.bias = bias_.data() + first;
  args.rows = rows;
  args.tokens = tokens;
  args.out_f32 = activated;
  args.gelu = activation_ == Activation::kGeluNew ? kGeluTanh : kGeluErf;
  const EpilogueForms& forms = *epilogue_->f32;
  const bool gelu = activation_ == Activation::kGelu || activation_ == Activation::kGeluNew;
  (gelu ? forms.gelu_f32 : activation_ == Activation::kRelu ? forms.relu_f32 : forms.f32)(args);
  for (int32_t t = 0; t < tokens; ++t)
    for (int32_t n = 0; n < rows; ++n) {
      const float value = activated[n * kTile + t];
      out[static_cast<ptrdiff_t>(t) * n_ + n] = activation_ == Activation::kTanh ? std::tanh(value) : value;
    }
}

std::vector<StepInfo> HeadDenseStep::info() const {
  return {{name_, kernel_->name, n_, k_, 1.0, bytes_, "f32", kTile, std::min(kRowBlock, n_)}};
}

StepWork HeadDenseStep::work(const Call& call) const {
  const int64_t macs = static_cast<int64_t>(call.head_rows) * n_ * k_;
  return {call.head_rows, macs, macs};
}

size_t HeadDenseStep::scratch_bytes(int32_t) const { return activation_ ? 2 * sizeof(float) * kRowBlock * kTile : 0; }

HeadNormStep::HeadNormStep(const HeadRecord::Norm& record, int64_t width, float eps, HeadBuffer at, Isa isa)
    : weights_("head.norm", record.gamma, record.beta, width, eps), at_(at), kernel_(&select_layer_norm(isa)) {}

void HeadNormStep::run(Call& call, const Worker& worker) const {
  const int32_t tiles = (call.head_rows + kTile - 1) / kTile, width = weights_.size();
  auto* const h = reinterpret_cast<float*>(call.scratch[worker.index].data());
  for (int64_t tile = worker.begin(tiles); tile < worker.end(tiles); ++tile) {
    float* const rows = rows_at(call, at_) + tile * kTile * width;
    LayerNormArgs args = weights_.args();
    args.h = h;
    args.tokens = static_cast<int32_t>(std::min<int64_t>(kTile, call.head_rows - tile * kTile));
    for (int32_t n = 0; n < width; ++n)
      for (int32_t t = 0; t < args.tokens; ++t) h[n * kTile + t] = rows[static_cast<ptrdiff_t>(t) * width + n];
    kernel_->run(args);
    for (int32_t t = 0; t < args.tokens; ++t)
      for (int32_t n = 0; n < width; ++n) rows[static_cast<ptrdiff_t>(t) * width + n] = h[n * kTile + t];
  }
}

std::vector<StepInfo> HeadNormStep::info() const { return {{"head.norm", kernel_->name, 0, 0, 1.0, 0}}; }

size_t HeadNormStep::scratch_bytes(int32_t) const { return sizeof(float) * kTile * weights_.gamma.size(); }

void HeadNormalizeStep::run(Call& call, const Worker& worker) const {
  for (int64_t row = worker.begin(call.head_rows); row < worker.end(call.head_rows); ++row) {
    float* const x = call.output + row * width_;
    double squares = 0;
    for (int32_t n = 0; n < width_; ++n) squares += static_cast<double>(x[n]) * x[n];
    const float length = std::max(static_cast<float>(std::sqrt(squares)), 1e-12f);
    for (int32_t n = 0; n < width_; ++n) x[n] /= length;
  }
}

std::vector<StepInfo> HeadNormalizeStep::info() const { return {{"head.normalize", "l2_norm", 0, 0, 1.0, 0}}; }

}  // namespace secateur
