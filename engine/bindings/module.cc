// The Python module secateur._engine: the only file that knows Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <sched.h>

#include <cstring>
#include <map>
#include <stdexcept>

#include "base/isa.h"
#include "kernels/peak/peak.h"
#include "plan/packed_model.h"
#include "plan/plan.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace secateur {
namespace {

template <class T>
using NumpyArray = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;

nb::object item(const nb::dict& record, const char* key) {
  if (!record.contains(key)) throw std::invalid_argument("a plan step lacks '" + std::string(key) + "'");
  return record[key];
}

template <class T>
T value(const nb::dict& record, const char* key) {
  try {
    return nb::cast<T>(item(record, key));
  } catch (const nb::cast_error&) {
    throw std::invalid_argument("a plan step's '" + std::string(key) + "' has a wrong type");
  }
}

bool is_aligned(const void* data, size_t size) { return reinterpret_cast<uintptr_t>(data) % size == 0; }

// Turns dicts of numpy arrays into records; holds on to the embedding tables, which the model reads in place.
class DescriptionReader {
 public:
  PlanDescription read(const nb::dict& description) {
    PlanDescription result;
    result.hidden_size = value<int64_t>(description, "hidden_size");
    result.max_tokens = value<int64_t>(description, "max_tokens");
    result.norm_eps = value<float>(description, "norm_eps");
    for (const nb::handle step : value<nb::list>(description, "steps")) {
      nb::dict record;
      if (!nb::try_cast<nb::dict>(step, record)) throw std::invalid_argument("a plan step is not a dict");
      result.steps.push_back(read_step(record));
    }
    return result;
  }
  nb::list take_tables() { return std::move(tables_); }

 private:
  template <class T>
  Array<T> array(const nb::dict& record, const char* key) {
    NumpyArray<T> view;
    const nb::object given = item(record, key);
    // No conversion: a converted copy would die here while its data is still referred to.
    if (!nb::try_cast<NumpyArray<T>>(given, view, /*convert=*/false))
      throw std::invalid_argument("a plan step's '" + std::string(key) + "' is not a contiguous array of its type");
    if (!is_aligned(view.data(), sizeof(T)))
      throw std::invalid_argument("a plan step's '" + std::string(key) + "' is not aligned to its type");
    Array<T> result;
    result.data = view.data();
    for (size_t i = 0; i < view.ndim(); ++i) result.shape.push_back(static_cast<int64_t>(view.shape(i)));
    return result;
  }
  template <class T>
  Array<T> optional_array(const nb::dict& record, const char* key) {
    if (!record.contains(key) || record[key].is_none()) return {};
    return array<T>(record, key);
  }

  // int8, float32 or, as uint16, bfloat16: the array's own type decides.
  Weights weights(const nb::dict& record, const char* key) {
    const nb::object given = item(record, key);
    if (NumpyArray<int8_t> view; nb::try_cast(given, view, /*convert=*/false)) return array<int8_t>(record, key);
    if (NumpyArray<float> view; nb::try_cast(given, view, /*convert=*/false)) return array<float>(record, key);
    if (NumpyArray<uint16_t> view; nb::try_cast(given, view, /*convert=*/false)) {
      const Array<uint16_t> bits = array<uint16_t>(record, key);
      return Array<Bf16>{reinterpret_cast<const Bf16*>(bits.data), bits.shape};
    }
    throw std::invalid_argument("a plan step's '" + std::string(key) +
                                "' is not a contiguous array of its type, int8, float32 or uint16 (bfloat16)");
  }
  static void refuse(const nb::dict& record, const std::string& what, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
      if (record.contains(key) && !record[key].is_none())
        throw std::invalid_argument(what + " and takes no '" + key + "'");
  }

  TableRecord table(const nb::dict& record, const char* rows) {
    const std::string scale = std::string(rows) + "_scale";
    TableRecord result;
    result.rows = weights(record, rows);
    if (is_bf16(result.rows))
      throw std::invalid_argument("the table '" + std::string(rows) + "' is bfloat16; tables are int8 or float32");
    tables_.append(item(record, rows));
    if (is_f32(result.rows)) {
      refuse(record, "the table '" + std::string(rows) + "' is float32", {scale.c_str()});
    } else {
      result.scale = array<float>(record, scale.c_str());
      tables_.append(item(record, scale.c_str()));
    }
    return result;
  }

  LinearRecord linear(const nb::dict& record) {
    static const std::map<std::string, Role> roles = {{"query", Role::kQuery},  {"key", Role::kKey},
                                                      {"value", Role::kValue},  {"attn_out", Role::kAttnOut},
                                                      {"ffn_in", Role::kFfnIn}, {"ffn_out", Role::kFfnOut}};
    static const std::map<std::string, Activation> activations = {
        {"gelu", Activation::kGelu}, {"gelu_new", Activation::kGeluNew}, {"relu", Activation::kRelu}};
    LinearRecord result;
    result.name = value<std::string>(record, "name");
    const auto role = roles.find(value<std::string>(record, "role"));
    if (role == roles.end()) throw std::invalid_argument(result.name + ": unknown role");
    result.role = role->second;
    if (record.contains("activation") && !record["activation"].is_none()) {
      const auto activation = activations.find(value<std::string>(record, "activation"));
      if (activation == activations.end())
        throw std::invalid_argument(result.name + ": unknown activation; known are gelu, gelu_new, relu");
      result.activation = activation->second;
    }
    result.n = value<int64_t>(record, "n");
    result.k = value<int64_t>(record, "k");
    result.mask = optional_array<uint8_t>(record, "mask");
    result.weight = weights(record, result.mask.data != nullptr ? "values" : "weight");
    result.bias = array<float>(record, "bias");
    if (!is_s8(result.weight)) {
      refuse(record, result.name + (is_bf16(result.weight) ? " is bfloat16" : " is float32"),
             {"scale", "input_scale", "input_zero_point", "order"});
    } else {
      result.scale = array<float>(record, "scale");
      result.input_scale = value<float>(record, "input_scale");
      result.input_zero_point = value<int32_t>(record, "input_zero_point");
      result.order = optional_array<uint16_t>(record, "order");
    }
    return result;
  }

  // int8 where there are scales; a part of them is an error.
  AttentionRecord attention(const nb::dict& record) {
    AttentionRecord result;
    result.name = value<std::string>(record, "name");
    result.num_heads = value<int64_t>(record, "num_heads");
    result.head_dim = value<int64_t>(record, "head_dim");
    bool quantized = false;
    for (const char* key : {"query_scale", "query_zero_point", "key_scale", "value_scale"})
      quantized |= record.contains(key) && !record[key].is_none();
    if (quantized)
      result.scales = AttentionScales{value<float>(record, "query_scale"), value<float>(record, "key_scale"),
                                      value<float>(record, "value_scale"), value<int32_t>(record, "query_zero_point")};
    return result;
  }

  StepRecord read_step(const nb::dict& record) {
    const auto op = value<std::string>(record, "op");
    if (op == "embed")
      return EmbedRecord{table(record, "word"), table(record, "position"), table(record, "token_type"),
                         array<float>(record, "gamma"), array<float>(record, "beta")};
    if (op == "linear") return linear(record);
    if (op == "attention") return attention(record);
    if (op == "add_norm")
      return AddNormRecord{value<std::string>(record, "name"), array<float>(record, "gamma"),
                           array<float>(record, "beta")};
    if (op == "head")
      return HeadRecord{optional_array<float>(record, "pooler_weight"), optional_array<float>(record, "pooler_bias"),
                        array<float>(record, "weight"), array<float>(record, "bias")};
    throw std::invalid_argument("unknown plan step '" + op + "'");
  }

  nb::list tables_;
};

class PyModel {
 public:
  PyModel(const nb::dict& description, const std::optional<std::string>& isa) {
    DescriptionReader reader;
    const PlanDescription read = reader.read(description);
    const Isa chosen = resolve_isa(isa.value_or("").c_str());
    {
      nb::gil_scoped_release release;
      packed_ = std::make_shared<const PackedModel>(read, chosen);
    }
    tables_ = reader.take_tables();
  }
  const std::shared_ptr<const PackedModel>& packed() const { return packed_; }
  const PackedModel& operator*() const { return *packed_; }
  const PackedModel* operator->() const { return packed_.get(); }

 private:
  nb::list tables_;
  std::shared_ptr<const PackedModel> packed_;
};

class PyPlan {
 public:
  // The binding keeps `model` alive: it holds the embedding tables.
  PyPlan(const PyModel& model, int32_t num_threads, std::optional<int64_t> max_tokens) {
    start(model, num_threads, max_tokens);
  }
  PyPlan(const nb::dict& description, const std::optional<std::string>& isa, int32_t num_threads,
         std::optional<int64_t> max_tokens)
      : own_(std::make_unique<PyModel>(description, isa)) {
    start(*own_, num_threads, max_tokens);
  }
  using Ids = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

  nb::ndarray<nb::numpy, float, nb::ndim<2>> run(const Ids& input_ids, const std::optional<Ids>& token_type_ids,
                                                 const Ids& offsets) {
    if (offsets.shape(0) < 2) throw std::invalid_argument("a batch needs at least one sequence");
    if (token_type_ids && token_type_ids->shape(0) != input_ids.shape(0))
      throw std::invalid_argument("token_type_ids must have a value a token");
    if (input_ids.shape(0) > INT32_MAX || offsets.shape(0) > INT32_MAX) throw std::invalid_argument("batch too large");
    // Copies: another thread may write to the caller's arrays, and what was checked has to be what runs.
    const std::vector<int32_t> ids = copy(input_ids), bounds = copy(offsets);
    const std::vector<int32_t> types = token_type_ids ? copy(*token_type_ids) : std::vector<int32_t>();
    Batch batch;
    batch.input_ids = ids.data();
    batch.token_type_ids = token_type_ids ? types.data() : nullptr;
    batch.offsets = bounds.data();
    batch.batch_size = static_cast<int32_t>(bounds.size() - 1);
    batch.tokens = static_cast<int64_t>(ids.size());
    const auto rows = static_cast<size_t>(batch.batch_size), labels = static_cast<size_t>(model().num_labels());
    std::unique_ptr<float[]> logits;
    {
      nb::gil_scoped_release release;
      plan_->validate(batch);
      logits = std::make_unique<float[]>(rows * labels);
      plan_->run(batch, logits.get());
    }
    float* const data = logits.get();
    const nb::capsule owner(logits.release(), [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return {data, {rows, labels}, owner};
  }

  nb::list steps() const {
    nb::list rows;
    const auto calls = static_cast<double>(plan_->profiled_calls());
    for (const Plan::StepProfile& step : plan_->steps()) {
      nb::dict row;
      row["name"] = step.info.name;
      row["kernel"] = step.info.kernel;
      row["n"] = step.info.n;
      row["k"] = step.info.k;
      row["density"] = step.info.density;
      row["packed_bytes"] = step.info.packed_bytes;
      row["type"] = step.info.type;
      row["tile"] = nb::make_tuple(step.info.tile_tokens, step.info.tile_rows);
      row["step"] = step.step;
      const auto a_call = [&](auto total) { return calls > 0 ? static_cast<double>(total) / calls : 0.0; };
      row["ms"] = a_call(step.milliseconds);
      row["tokens"] = a_call(step.work.tokens);
      row["macs"] = a_call(step.work.macs);
      row["executed_macs"] = a_call(step.work.executed_macs);
      rows.append(row);
    }
    return rows;
  }

  const Plan& plan() const { return *plan_; }
  const PackedModel& model() const { return plan_->model(); }
  size_t arena_bytes() { return plan_->arena_bytes(); }
  void profile(bool on) { plan_->set_profiling(on); }

 private:
  void start(const PyModel& model, int32_t num_threads, std::optional<int64_t> max_tokens) {
    if (max_tokens && *max_tokens < 1) throw std::invalid_argument("max_tokens must be positive");
    const nb::gil_scoped_release release;
    plan_ = std::make_unique<Plan>(model.packed(), num_threads, max_tokens.value_or(0));
  }
  static std::vector<int32_t> copy(const Ids& ids) {
    std::vector<int32_t> values(ids.shape(0));
    if (!values.empty()) std::memcpy(values.data(), ids.data(), values.size() * sizeof(int32_t));
    return values;
  }

  std::unique_ptr<PyModel> own_;  // a model that no other plan shares
  std::unique_ptr<Plan> plan_;
};

nb::dict cpu_info() {
  nb::dict info;
  info["brand"] = cpu_brand();
  nb::list features, isas;
  for (const std::string& name : cpu_features()) features.append(name);
  for (const Isa isa : available_isas()) isas.append(isa_name(isa));
  info["features"] = features;
  info["isas"] = isas;
  cpu_set_t set;
  info["threads"] = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  return info;
}

nb::dict measure_peaks(const std::string& name) {
  const Isa isa = resolve_isa(name.c_str());
  double rates[3];
  {
    nb::gil_scoped_release release;
    rates[0] = measure_peak(select_peak(kU8S8, isa));
    rates[1] = measure_peak(select_peak(kF32, isa));
    rates[2] = measure_peak(select_peak(kBf16, isa));
  }
  nb::dict peaks;
  peaks["u8s8"] = rates[0];
  peaks["f32"] = rates[1];
  peaks["bf16"] = rates[2];
  return peaks;
}

}  // namespace
}  // namespace secateur

NB_MODULE(_engine, m) {
  using secateur::PyModel;
  using secateur::PyPlan;
  m.doc() = "Sparse inference engine, int8, bfloat16 and float32, for BERT-family encoders.";
  m.def("cpu_info", &secateur::cpu_info,
        "Brand, features, instruction sets this CPU can run (best first) and CPUs this process may use.");
  m.def(
      "resolve_isa", [](const std::string& name) { return secateur::isa_name(secateur::resolve_isa(name.c_str())); },
      "name"_a = "", "The instruction set of that name; '' takes SECATEUR_ISA, else the best. Raises ValueError.");
  m.def("measure_peak", &secateur::measure_peaks, "isa"_a = "",
        "GMAC/s that one thread reaches on registers with what that instruction set has, by type: u8s8, f32 and bf16. "
        "Takes some 75 ms. Raises ValueError.");
  using IsaName = std::optional<std::string>;
  using MaxTokens = std::optional<int64_t>;
  nb::class_<PyModel>(m, "Model")
      .def(nb::init<const nb::dict&, const IsaName&>(), "description"_a, "isa"_a = nb::none(),
           "Packs a model's weights: plans share them. Raises ValueError where the description is unsound.")
      .def_prop_ro("isa", [](const PyModel& p) { return secateur::isa_name(p->isa()); });
  nb::class_<PyPlan>(m, "Plan")
      .def(nb::init<const PyModel&, int32_t, MaxTokens>(), "model"_a, "num_threads"_a = 1, "max_tokens"_a = nb::none(),
           nb::keep_alive<1, 2>(),
           "A model with threads of its own; max_tokens bounds the memory of a call. Raises ValueError, and "
           "RuntimeError where the system refuses a thread.")
      .def(nb::init<const nb::dict&, const IsaName&, int32_t, MaxTokens>(), "description"_a, "isa"_a = nb::none(),
           "num_threads"_a = 1, "max_tokens"_a = nb::none(), "The same with a model that nothing else shares.")
      .def("run", &PyPlan::run, "input_ids"_a.noconvert(), "token_type_ids"_a.noconvert().none(),
           "offsets"_a.noconvert(),
           "Logits [batch_size, num_labels] float32 of a ragged batch of int32 token ids. Thread-safe.")
      .def("steps", &PyPlan::steps,
           "One dict a product or other step: name, kernel, n, k, density, packed_bytes, type, tile (tokens, rows); "
           "profiled also ms, tokens, macs, executed_macs a call; rows with the same step were timed together.")
      .def("profile", &PyPlan::profile, "on"_a, "Starts (from zero) or stops timing the steps.")
      .def("arena_bytes", &PyPlan::arena_bytes, "Bytes kept for the activations of later calls.")
      .def_prop_ro("isa", [](const PyPlan& p) { return secateur::isa_name(p.model().isa()); })
      .def_prop_ro("num_threads", [](const PyPlan& p) { return p.plan().num_threads(); })
      .def_prop_ro("max_tokens",
                   [](const PyPlan& p) {
                     const int64_t limit = p.plan().max_tokens();
                     return limit == 0 ? std::optional<int64_t>() : std::optional<int64_t>(limit);
                   })
      .def_prop_ro("num_labels", [](const PyPlan& p) { return p.model().num_labels(); })
      .def_prop_ro("max_sequence", [](const PyPlan& p) { return p.model().max_sequence(); });
}
