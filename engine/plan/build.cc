// From a description to fused steps: checks that it is an encoder, sets who writes for whom, packs the weights.
#include "kernels/epilogue/epilogue.h"
#include "plan/attention.h"
#include "plan/check.h"
#include "plan/linear.h"
#include "plan/order.h"
#include "plan/packed_model.h"
#include "plan/packer.h"
#include "plan/quantize_rows.h"
#include "plan/round.h"

namespace secateur {
namespace {

// Reads the records of a description in the one order that an encoder has.
class Reader {
 public:
  explicit Reader(const std::vector<StepRecord>& records) : records_(records) {}

  template <class Record>
  const Record& next(const char* expected) {
    const Record* record = at_ < records_.size() ? std::get_if<Record>(&records_[at_]) : nullptr;
    check(record != nullptr, "step " + std::to_string(at_) + " of the plan should be " + expected);
    ++at_;
    return *record;
  }
  const LinearRecord& next_linear(Role role, const char* expected) {
    const LinearRecord& record = next<LinearRecord>(expected);
    check(record.role == role, record.name + ": should be " + expected);
    return record;
  }
  template <class Record>
  bool sees() const {
    return at_ < records_.size() && std::holds_alternative<Record>(records_[at_]);
  }
  bool done() const { return at_ == records_.size(); }
  // What the head will read; there may be none.
  HeadRows head_rows() const {
    const HeadRecord* head = records_.empty() ? nullptr : std::get_if<HeadRecord>(&records_.back());
    return head != nullptr ? head->rows : HeadRows::kFirst;
  }
  // Encoder layers that are still to come.
  size_t layers_left() const {
    size_t count = 0;
    for (size_t i = at_; i < records_.size(); ++i) count += std::holds_alternative<AttentionRecord>(records_[i]);
    return count;
  }

 private:
  const std::vector<StepRecord>& records_;
  size_t at_ = 0;
};

const Array<uint16_t> kOwnOrder;

Output written_with(float scale, int32_t zero_point) { return OutputScale{1.0f / scale, zero_point}; }
Output read_by(const LinearRecord& reader) {
  return !is_s8(reader.weight) || reader.dynamic ? Output() : written_with(reader.input_scale, reader.input_zero_point);
}

// The projections of an attention read one hidden state: those in int8 have to agree on its scale.
Output read_by_all(const std::vector<const LinearRecord*>& readers) {
  const LinearRecord* first = nullptr;
  for (const LinearRecord* reader : readers) {
    if (!is_s8(reader->weight)) continue;
    if (first == nullptr) first = reader;
    check(reader->dynamic == first->dynamic,
          reader->name + ": query, key and value must quantize their input all dynamically or all statically");
    check(reader->input_scale == first->input_scale && reader->input_zero_point == first->input_zero_point,
          reader->name + ": query, key and value must share their input's scale and zero point");
    check(is_same(reader->order, first->order), reader->name + ": query, key and value must share their input's order");
  }
  return first != nullptr ? read_by(*first) : Output();
}

// The hidden state as those of its readers take it that are int8, which agree.
void write_for(const std::vector<const LinearRecord*>& readers, HiddenForm& form) {
  form.out = read_by_all(readers);
  for (const LinearRecord* reader : readers)
    if (form.out && is_s8(reader->weight))
      form.order.assign(reader->order.data, reader->order.data + reader->order.size());
}

// Makes room in one of two buffers: that of quantized values or that of floats.
void widen(int32_t& quantized, int32_t& f32, const Output& out, int64_t width) {
  int32_t& buffer = out ? quantized : f32;
  buffer = std::max(buffer, static_cast<int32_t>(width));
}

void check_shape(const LinearRecord& record, int64_t n, int64_t k) {
  check(record.n == n && record.k == k, record.name + ": is [" + std::to_string(record.n) + ", " +
                                            std::to_string(record.k) + "], expected [" + std::to_string(n) + ", " +
                                            std::to_string(k) + "]");
}

}  // namespace

void PackedModel::build(const PlanDescription& description, int32_t threads) {
  const int64_t hidden = description.hidden_size;
  check(hidden > 0 && hidden % 4 == 0 && hidden <= 16384, "hidden_size must be a multiple of 4, at most 16384");
  widths_.residual = static_cast<int32_t>(hidden);
  const float eps = description.norm_eps;
  Reader reader(description.steps);

  Packer packer(isa_);

  const auto& embeddings = reader.next<EmbedRecord>("the embeddings");
  const int64_t width = embeddings.projection ? embedding_width(embeddings) : hidden;
  auto embed = std::make_unique<EmbedStep>(embeddings, width, eps, isa_);
  embed_ = embed.get();
  max_sequence_ = std::min(description.max_tokens, embed->max_positions());
  check(max_sequence_ > 0 && max_sequence_ <= (1 << 20), "the longest sequence must be 1 .. 1048576 tokens");
  HiddenForm* form = &embed->form;  // of whoever writes what the next projections read
  steps_.push_back(std::move(embed));
  std::unique_ptr<QuantizeStep> quantize;
  if (embeddings.projection) {
    widths_.embedding = static_cast<int32_t>(width);
    auto projection = std::make_unique<LinearStep>(Source::kEmbedding, false);
    packer.add(*projection, projection_record(embeddings, width, hidden), Output(), {});
    steps_.push_back(std::move(projection));
    quantize = std::make_unique<QuantizeStep>("embeddings.quantize", hidden, isa_);
    form = &quantize->form;
  }
  check(reader.sees<LinearRecord>(), "the plan has no encoder layer");
  // Past the last layer's keys and values a head over first tokens reads these only.
  const bool only_first = reader.head_rows() == HeadRows::kFirst;

  while (reader.sees<LinearRecord>()) {
    const bool over_first = only_first && reader.layers_left() == 1;
    const LinearRecord& query = reader.next_linear(Role::kQuery, "a query projection");
    const LinearRecord& key = reader.next_linear(Role::kKey, "a key projection");
    const LinearRecord& value = reader.next_linear(Role::kValue, "a value projection");
    const AttentionRecord& attention = reader.next<AttentionRecord>("an attention");
    const LinearRecord& attn_out = reader.next_linear(Role::kAttnOut, "an attention output projection");
    const AddNormRecord& attn_norm = reader.next<AddNormRecord>("a norm");
    const LinearRecord& ffn_in = reader.next_linear(Role::kFfnIn, "an inner projection");
    const LinearRecord& ffn_out = reader.next_linear(Role::kFfnOut, "an outer projection");
    const AddNormRecord& ffn_norm = reader.next<AddNormRecord>("a norm");

    check(attention.num_heads > 0 && attention.num_heads <= 256 && attention.head_dim > 0 && attention.head_dim <= 256,
          attention.name + ": num_heads and head_dim must be 1 .. 256");
    const int64_t inner_width = attention.num_heads * attention.head_dim;
    for (const LinearRecord* record : {&query, &key, &value}) check_shape(*record, inner_width, hidden);
    check_shape(attn_out, hidden, inner_width);
    check_shape(ffn_in, ffn_in.n, hidden);
    check_shape(ffn_out, hidden, ffn_in.n);
    for (const LinearRecord* record : {&query, &key, &value, &ffn_in, &ffn_out}) check_order(*record, record->k);
    check_order(attn_out, attention.head_dim);

    const std::optional<AttentionScales>& scales = attention.scales;
    const Output query_out = scales ? written_with(scales->query, scales->query_zero_point) : Output();
    const Output context = read_by(attn_out), inner = read_by(ffn_out);
    auto attention_step = std::make_unique<AttentionStep>(attention, context, over_first, isa_);
    write_for({&query, &key, &value}, *form);
    if (form->out) widths_.hidden = widths_.residual;
    widen(widths_.query, widths_.query_f32, query_out, inner_width);
    widen(widths_.key_value, widths_.key_value_f32, query_out, inner_width);
    widen(widths_.context, widths_.context_f32, context, inner_width);
    widen(widths_.inner, widths_.inner_f32, inner, ffn_in.n);

    // In front of int8 products that quantize their input dynamically, which then all do.
    const auto add_quantize = [&](const std::string& name, const std::vector<const LinearRecord*>& readers,
                                  Source source, bool first) {
      const auto reader = std::find_if(readers.begin(), readers.end(), [](const auto* one) { return one->dynamic; });
      if (reader == readers.end()) return;
      const LinearRecord& record = **reader;
      int32_t& width = source == Source::kHidden    ? widths_.hidden
                       : source == Source::kContext ? widths_.context
                                                    : widths_.inner;
      width = std::max(width, static_cast<int32_t>(record.k));
      widths_.row_scale = 1;
      const Array<uint16_t>& order = source == Source::kHidden ? record.order : kOwnOrder;  // others are written in it
      steps_.push_back(std::make_unique<QuantizeRowsStep>(name, source, record.k, order, first, isa_));
    };
    // In front of products of which any is bfloat16.
    const auto add_round = [&](const std::vector<const LinearRecord*>& readers, Source source, bool first) {
      if (std::none_of(readers.begin(), readers.end(), [](const auto* reader) { return is_bf16(reader->weight); }))
        return;
      widths_.rounded = std::max(widths_.rounded, static_cast<int32_t>(readers[0]->k));
      steps_.push_back(std::make_unique<RoundStep>(source, readers[0]->k, first, isa_));
    };
    if (quantize != nullptr && form->out) steps_.push_back(std::move(quantize));
    auto projections = std::make_unique<LinearStep>(Source::kHidden, false);
    auto first_query = std::make_unique<LinearStep>(Source::kHidden, true);
    packer.add(over_first ? *first_query : *projections, query, query_out, {});
    packer.add(*projections, key, scales ? written_with(scales->key, 0) : Output(), {});
    packer.add(*projections, value, scales ? written_with(scales->value, 0) : Output(), attn_out.order);
    if (over_first) steps_.push_back(std::make_unique<FirstTokenStep>(hidden, read_by(query).has_value()));
    std::vector<const LinearRecord*> over_all{&key, &value};
    if (!over_first) over_all.push_back(&query);
    add_round(over_all, Source::kHidden, false);
    add_quantize(attention.name, over_all, Source::kHidden, false);
    steps_.push_back(std::move(projections));
    if (over_first) {
      add_round({&query}, Source::kHidden, true);
      add_quantize(query.name, {&query}, Source::kHidden, true);
      steps_.push_back(std::move(first_query));
    }
    steps_.push_back(std::move(attention_step));

    const auto add_linear = [&](const LinearRecord& record, Source source, const Output& out,
                                const Array<uint16_t>& row_order) {
      add_round({&record}, source, over_first);
      add_quantize(record.name, {&record}, source, over_first);
      auto step = std::make_unique<LinearStep>(source, over_first);
      packer.add(*step, record, out, row_order);
      steps_.push_back(std::move(step));
    };
    const auto add_norm = [&](const AddNormRecord& record) {
      auto step = std::make_unique<NormStep>(record, hidden, eps, over_first, isa_);
      form = &step->form;
      steps_.push_back(std::move(step));
    };
    add_linear(attn_out, Source::kContext, Output(), {});
    add_norm(attn_norm);
    write_for({&ffn_in}, *form);
    if (form->out) widths_.hidden = widths_.residual;
    add_linear(ffn_in, Source::kHidden, inner, ffn_out.order);
    add_linear(ffn_out, Source::kInner, Output(), {});
    add_norm(ffn_norm);
  }

  head_ = make_head(reader.next<HeadRecord>("the head"), embeddings.word.rows, hidden, eps, isa_, steps_);
  widths_.head[0] = head_.widths[0];
  widths_.head[1] = head_.widths[1];
  check(reader.done(), "the plan goes on after its head");
  packer.run(threads);
}

}  // namespace secateur
