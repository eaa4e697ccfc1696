// Eight callers at once on plans that share one model, while other plans come and go: run under ThreadSanitizer or
// AddressSanitizer.
// Prints 'N passed, N failed'.
#include <cstdio>
#include <random>
#include <thread>

#include "plan/plan.h"

namespace {

using namespace secateur;  // NOLINT: a test program

constexpr int64_t kHidden = 64, kHeads = 4, kNarrow = 20, kInner = 128, kVocab = 140, kPositions = 48, kLabels = 3;

// Owns the arrays that a description refers to.
class Model {
 public:
  // `mixed`: matrices, attentions and tables are int8 and float32 by turns, and most inputs of the int8 ones dynamic;
  // else all are int8 and static.
  PlanDescription describe(int layers, bool mixed) {
    PlanDescription d = encoder(layers, mixed, kHidden);
    HeadRecord head;
    head.dense = {floats({kHidden, kHidden}, 0), floats({kHidden}, 0), Activation::kTanh};
    head.output = {floats({kLabels, kHidden}, 0), {}, floats({kLabels}, 0)};
    d.steps.push_back(head);
    return d;
  }
  // Layers that share their weights, behind a projection; a norm and the word table over every token.
  PlanDescription describe_masked(int layers) {
    PlanDescription d = encoder(1, /*mixed=*/true, kNarrow);
    auto& embed = std::get<EmbedRecord>(d.steps.front());
    embed.token_type.reset();
    embed.projection = {floats({kHidden, kNarrow}, 0), floats({kHidden}, 0)};
    HeadRecord head;
    head.rows = HeadRows::kEvery;
    head.dense = {floats({kNarrow, kHidden}, 0), floats({kNarrow}, 0), Activation::kGelu};
    head.norm = {floats({kNarrow}, 1), floats({kNarrow}, 0)};
    head.output = {embed.word.rows, embed.word.scale, floats({kVocab}, 0)};
    const std::vector<StepRecord> layer(d.steps.begin() + 1, d.steps.end());
    for (int i = 1; i < layers; ++i) d.steps.insert(d.steps.end(), layer.begin(), layer.end());
    d.steps.push_back(head);
    return d;
  }
  PlanDescription describe_embedding(int layers, HeadRows rows) {
    PlanDescription d = encoder(layers, /*mixed=*/true, kHidden);
    HeadRecord head;
    head.rows = rows;
    head.normalize = true;
    d.steps.push_back(head);
    return d;
  }

 private:
  PlanDescription encoder(int layers, bool mixed, int64_t width) {
    mixed_ = mixed;
    PlanDescription d;
    d.hidden_size = kHidden;
    d.max_tokens = kPositions;
    d.norm_eps = 1e-12f;
    d.steps.push_back(EmbedRecord{
        table(kVocab, width), table(kPositions, width), table(2, width), floats({width}, 1), floats({width}, 0), {}});
    for (int i = 0; i < layers; ++i) {
      d.steps.push_back(linear("query", Role::kQuery, kHidden, kHidden, 0.03f));
      d.steps.push_back(linear("key", Role::kKey, kHidden, kHidden, 0.03f));
      d.steps.push_back(linear("value", Role::kValue, kHidden, kHidden, 0.03f));
      AttentionRecord attention{"attention", kHeads, kHidden / kHeads, AttentionScales{0.03f, 0.03f, 0.03f, 120}};
      if (float_next()) attention.scales.reset();
      d.steps.push_back(attention);
      d.steps.push_back(linear("attn_out", Role::kAttnOut, kHidden, kHidden, 0.02f));
      d.steps.push_back(AddNormRecord{"norm", floats({kHidden}, 1), floats({kHidden}, 0)});
      d.steps.push_back(linear("ffn_in", Role::kFfnIn, kInner, kHidden, 0.03f));
      d.steps.push_back(linear("ffn_out", Role::kFfnOut, kHidden, kInner, 0.02f));
      d.steps.push_back(AddNormRecord{"norm", floats({kHidden}, 1), floats({kHidden}, 0)});
    }
    return d;
  }
  Array<float> floats(std::vector<int64_t> shape, float mean) {
    std::normal_distribution<float> normal(mean, 0.1f);
    Array<float> array{nullptr, std::move(shape)};
    auto& store = floats_.emplace_back(new std::vector<float>(static_cast<size_t>(array.size())));
    for (float& v : *store) v = normal(random_);
    array.data = store->data();
    return array;
  }
  Array<int8_t> bytes(std::vector<int64_t> shape) {
    Array<int8_t> array{nullptr, std::move(shape)};
    auto& store = bytes_.emplace_back(new std::vector<int8_t>(static_cast<size_t>(array.size())));
    for (int8_t& v : *store) v = static_cast<int8_t>(static_cast<int>(random_() % 255) - 127);
    array.data = store->data();
    return array;
  }
  Array<float> constants(int64_t size, float value) {
    auto& store = floats_.emplace_back(new std::vector<float>(static_cast<size_t>(size), value));
    return {store->data(), {size}};
  }
  // By threes, so that a layer's seven do not fall alike in every layer.
  bool float_next() { return mixed_ && turn_++ / 3 % 2 == 0; }
  TableRecord table(int64_t rows, int64_t width) {
    if (float_next()) return {floats({rows, width}, 0), {}};
    return {bytes({rows, width}), constants(rows, 0.01f)};
  }
  LinearRecord linear(const char* name, Role role, int64_t n, int64_t k, float input_scale) {
    LinearRecord record;
    record.name = name;
    record.role = role;
    record.n = n;
    record.k = k;
    record.bias = floats({n}, 0);
    if (float_next()) {
      record.weight = floats({n, k}, 0);
    } else {
      record.weight = bytes({n, k});
      record.scale = constants(n, 0.002f);
      record.dynamic = mixed_ && role != Role::kFfnIn;
      record.input_scale = input_scale;
      record.input_zero_point = 128;
    }
    if (role == Role::kFfnIn) record.activation = Activation::kGelu;
    return record;
  }

  bool mixed_ = false;
  int turn_ = 0;
  std::mt19937 random_{7};
  std::vector<std::unique_ptr<std::vector<float>>> floats_;
  std::vector<std::unique_ptr<std::vector<int8_t>>> bytes_;
};

struct Request {
  std::vector<int32_t> ids, offsets{0}, positions;
  std::vector<float> outputs;
  Batch batch() const {
    const auto sequences = static_cast<int32_t>(offsets.size()) - 1, asked = static_cast<int32_t>(positions.size());
    return {ids.data(),
            nullptr,
            offsets.data(),
            sequences,
            static_cast<int64_t>(ids.size()),
            asked > 0 ? positions.data() : nullptr,
            asked};
  }
};

std::atomic<int> passed{0}, failed{0};

void stress(const PlanDescription& description) {
  const auto packed = std::make_shared<const PackedModel>(description, resolve_isa(nullptr));
  Plan plan(packed, 3), alone(packed, 1), bounded(packed, 2, kPositions);
  Plan* const plans[] = {&plan, &alone, &bounded};
  std::mt19937 random(11);
  std::vector<Request> requests(8);
  for (Request& request : requests) {
    for (int s = 0; s < 6; ++s) {
      const int length = 1 + static_cast<int>(random() % kPositions);
      for (int t = 0; t < length; ++t) request.ids.push_back(static_cast<int32_t>(random() % kVocab));
      request.offsets.push_back(static_cast<int32_t>(request.ids.size()));
    }
    if (packed->head_rows() == HeadRows::kEvery && random() % 2 == 0)
      for (size_t t = random() % 5; t < request.ids.size(); t += 1 + random() % 40)
        request.positions.push_back(static_cast<int32_t>(t));
    plan.validate(request.batch());
    request.outputs.resize(static_cast<size_t>(plan.output_rows(request.batch())) * packed->num_outputs());
    plan.run(request.batch(), request.outputs.data());
  }
  const auto ask = [&](Plan& asked, const Request& request) {
    std::vector<float> outputs(request.outputs.size());
    asked.run(request.batch(), outputs.data());
    (outputs == request.outputs ? passed : failed).fetch_add(1);
  };
  std::vector<std::thread> callers;
  for (size_t i = 0; i < requests.size(); ++i)
    callers.emplace_back([&, i] {
      for (size_t round = 0; round < 12; ++round) ask(*plans[(i + round) % 3], requests[i]);
    });
  callers.emplace_back([&] {
    for (int round = 0; round < 10; ++round) {
      Plan passing(packed, 1 + round % 3, round % 2 == 0 ? 0 : 64);
      ask(passing, requests[static_cast<size_t>(round) % requests.size()]);
      plan.set_profiling(round % 2 == 0);
      plan.steps();
      bounded.arena_bytes();
    }
  });
  for (std::thread& caller : callers) caller.join();
}

}  // namespace

int main() {
  Model arrays;
  stress(arrays.describe(3, /*mixed=*/false));
  stress(arrays.describe(3, /*mixed=*/true));
  stress(arrays.describe_masked(3));
  stress(arrays.describe_embedding(2, HeadRows::kMean));
  stress(arrays.describe_embedding(2, HeadRows::kMax));
  std::printf("%d passed, %d failed\n", passed.load(), failed.load());
  return failed.load() == 0 ? 0 : 1;
}
