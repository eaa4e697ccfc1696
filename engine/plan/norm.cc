#include "plan/norm.h"

#include <cstring>

#include "plan/check.h"

namespace secateur {
namespace {

void check_finite(const Array<float>& values, int64_t size, const std::string& what) {
  check(values.size() == size, what + " must have " + std::to_string(size) + " values");
  for (int64_t i = 0; i < size; ++i)
    if (!std::isfinite(values.data[i])) fail(what + " is not finite");
}

template <class T>
void check_rows(const Array<T>& rows, int64_t hidden, const std::string& what) {
  check(rows.shape.size() == 2 && rows.shape[1] == hidden && rows.shape[0] > 0 && rows.shape[0] <= INT32_MAX,
        what + " must be [rows, " + std::to_string(hidden) + "]");
}

EmbeddingTable make_table(const TableRecord& record, int64_t hidden, const std::string& what) {
  if (is_f32(record.rows)) {
    const auto& rows = std::get<Array<float>>(record.rows);
    check_rows(rows, hidden, what);
    check_finite(rows, rows.size(), what);
    return {nullptr, nullptr, rows.data};
  }
  const auto& rows = std::get<Array<int8_t>>(record.rows);
  check_rows(rows, hidden, what);
  check(record.scale.size() == rows.shape[0], what + ": scale must have a value a row");
  for (int64_t i = 0; i < record.scale.size(); ++i)
    if (!is_scale(record.scale.data[i])) fail(what + ": scale must be finite and positive");
  return {rows.data, record.scale.data};
}

int64_t count_rows(const TableRecord& record) {
  return std::visit([](const auto& rows) { return rows.shape[0]; }, record.rows);
}

}  // namespace

NormStep::NormStep(const std::string& name, const Array<float>& gamma, const Array<float>& beta, int64_t hidden,
                   float eps, bool over_first, Isa isa)
    : name_(name), eps_(eps), over_first_(over_first), kernel_(&select_layer_norm(isa)) {
  check_finite(gamma, hidden, name + ": gamma");
  check_finite(beta, hidden, name + ": beta");
  check(std::isfinite(eps) && eps >= 0, name + ": norm_eps must be finite and not negative");
  gamma_.assign(gamma.data, gamma.data + hidden);
  beta_.assign(beta.data, beta.data + hidden);
}

void NormStep::normalise(Rows& rows, int32_t tile) const {
  const ptrdiff_t start = static_cast<ptrdiff_t>(tile) * kTile * hidden();
  LayerNormArgs args{};
  args.h = rows.residual.data() + start;
  args.channels = hidden();
  args.tokens = rows.tile_tokens(tile);
  args.gamma = gamma_.data();
  args.beta = beta_.data();
  args.eps = eps_;
  if (out) {
    args.inv_scale = out->inv_scale;
    args.zero_point = out->zero_point;
    args.out = rows.hidden.data() + start;
    args.order = order.empty() ? nullptr : order.data();
  }
  kernel_->run(args);
}

void NormStep::run(Call& call, const Worker& worker) const {
  Rows& rows = over_first_ ? call.first : call.all;
  for (int64_t tile = worker.begin(rows.tiles); tile < worker.end(rows.tiles); ++tile)
    normalise(rows, static_cast<int32_t>(tile));
}

std::vector<StepInfo> NormStep::info() const { return {{name_, kernel_->name, 0, 0, 1.0, 0}}; }

EmbedStep::EmbedStep(const EmbedRecord& record, int64_t hidden, float eps, Isa isa)
    : NormStep("embeddings", record.gamma, record.beta, hidden, eps, /*over_first=*/false, isa),
      word_(make_table(record.word, hidden, "word embeddings")),
      position_(make_table(record.position, hidden, "position embeddings")),
      token_type_(make_table(record.token_type, hidden, "token type embeddings")),
      vocab_size_(count_rows(record.word)),
      type_vocab_size_(count_rows(record.token_type)),
      max_positions_(count_rows(record.position)),
      kernel_(&select_embedding(isa)) {}

void EmbedStep::run(Call& call, const Worker& worker) const {
  for (int64_t tile = worker.begin(call.all.tiles); tile < worker.end(call.all.tiles); ++tile) {
    const int64_t token = tile * kTile;
    EmbeddingArgs args{};
    args.word = word_;
    args.token_type = token_type_;
    args.position = position_;
    args.word_id = call.input_ids + token;
    args.token_type_id = call.token_type_ids + token;
    args.position_id = call.position.data() + token;
    args.channels = hidden();
    args.tokens = call.all.tile_tokens(static_cast<int32_t>(tile));
    args.h = call.all.residual.data() + token * hidden();
    kernel_->run(args);
    normalise(call.all, static_cast<int32_t>(tile));
  }
}

std::vector<StepInfo> EmbedStep::info() const {
  std::vector<StepInfo> rows = NormStep::info();
  rows.front().kernel = std::string(kernel_->name) + " + " + rows.front().kernel;
  return rows;
}

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
