#include "plan/embed.h"

#include "plan/check.h"

namespace secateur {
namespace {

template <class T>
void check_rows(const Array<T>& rows, int64_t width, const std::string& what) {
  check(rows.shape.size() == 2 && rows.shape[1] == width && rows.shape[0] > 0 && rows.shape[0] <= INT32_MAX,
        what + " must be [rows, " + std::to_string(width) + "]");
}

EmbeddingTable make_table(const TableRecord& record, int64_t width, const std::string& what) {
  if (is_f32(record.rows)) {
    const auto& rows = std::get<Array<float>>(record.rows);
    check_rows(rows, width, what);
    check_finite(rows, rows.size(), what);
    return {nullptr, nullptr, rows.data};
  }
  const auto& rows = std::get<Array<int8_t>>(record.rows);
  check_rows(rows, width, what);
  check(record.scale.size() == rows.shape[0], what + ": scale must have a value a row");
  for (int64_t i = 0; i < record.scale.size(); ++i)
    if (!is_scale(record.scale.data[i])) fail(what + ": scale must be finite and positive");
  return {rows.data, record.scale.data};
}

int64_t count_rows(const TableRecord& record) {
  return std::visit([](const auto& rows) { return rows.shape[0]; }, record.rows);
}

}  // namespace

int64_t embedding_width(const EmbedRecord& record) {
  const std::vector<int64_t>& shape =
      std::visit([](const auto& rows) -> const auto& { return rows.shape; }, record.word.rows);
  check(shape.size() == 2, "word embeddings must be [rows, columns]");
  check(shape[1] > 0 && shape[1] % 4 == 0 && shape[1] <= 16384,
        "word embeddings must have a multiple of 4 columns, at most 16384");
  return shape[1];
}

EmbedStep::EmbedStep(const EmbedRecord& record, int64_t width, float eps, Isa isa)
    : weights_("embeddings", record.gamma, record.beta, width, eps),
      projected_(record.projection.has_value()),
      word_(make_table(record.word, width, "word embeddings")),
      position_(make_table(record.position, width, "position embeddings")),
      vocab_size_(count_rows(record.word)),
      max_positions_(count_rows(record.position)),
      kernel_(&select_embedding(isa)),
      norm_kernel_(&select_layer_norm(isa)) {
  if (record.token_type) {
    token_type_ = make_table(*record.token_type, width, "token type embeddings");
    num_token_types_ = count_rows(*record.token_type);
  } else {
    no_types_ = AlignedBuffer<float>(static_cast<size_t>(width));
    token_type_ = {nullptr, nullptr, no_types_.data()};
  }
}

void EmbedStep::run(Call& call, const Worker& worker) const {
  const int32_t width = weights_.size();
  float* const to = (projected_ ? call.embedding : call.all.residual).data();
  for (int64_t tile = worker.begin(call.all.tiles); tile < worker.end(call.all.tiles); ++tile) {
    const int64_t token = tile * kTile;
    EmbeddingArgs args{};
    args.word = word_;
    args.token_type = token_type_;
    args.position = position_;
    args.word_id = call.input_ids + token;
    args.token_type_id = call.token_type_ids + token;
    args.position_id = call.position.data() + token;
    args.channels = width;
    args.tokens = call.all.tile_tokens(static_cast<int32_t>(tile));
    args.h = to + token * width;
    kernel_->run(args);
    LayerNormArgs norm = weights_.args();
    norm.h = args.h;
    norm.tokens = args.tokens;
    if (form.out) {
      norm.inv_scale = form.out->inv_scale;
      norm.zero_point = form.out->zero_point;
      norm.out = call.all.hidden.data() + token * width;
      norm.order = form.order.empty() ? nullptr : form.order.data();
    }
    norm_kernel_->run(norm);
  }
}

std::vector<StepInfo> EmbedStep::info() const {
  return {{"embeddings", std::string(kernel_->name) + " + " + norm_kernel_->name, 0, 0, 1.0, 0}};
}

LinearRecord projection_record(const EmbedRecord& record, int64_t width, int64_t hidden) {
  const EmbedRecord::Projection& projection = *record.projection;
  const std::string name = "embeddings.projection";
  check(projection.weight.shape == std::vector<int64_t>{hidden, width},
        name + ": weight must be [" + std::to_string(hidden) + ", " + std::to_string(width) + "]");
  LinearRecord linear;
  linear.name = name;
  linear.role = Role::kProjection;
  linear.n = hidden;
  linear.k = width;
  linear.weight = projection.weight;
  linear.bias = projection.bias;
  return linear;
}

}  // namespace secateur
