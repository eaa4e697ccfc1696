// The Python module secateur._engine: models and plans.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <sched.h>

#include <cstring>
#include <stdexcept>

#include "base/isa.h"
#include "bindings/description.h"
#include "kernels/peak/peak.h"
#include "plan/packed_model.h"
#include "plan/plan.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace secateur {
namespace {

class PyModel {
 public:
  PyModel(const nb::dict& description, const std::optional<std::string>& isa, int32_t packing_threads = 0) {
    if (packing_threads < 0) throw std::invalid_argument("packing_threads must not be negative");
    const ReadDescription read = read_description(description);
    const Isa chosen = resolve_isa(isa.value_or("").c_str());
    {
      nb::gil_scoped_release release;
      packed_ = std::make_shared<const PackedModel>(read.records, chosen, packing_threads);
    }
    in_place_ = read.in_place;
  }
  const std::shared_ptr<const PackedModel>& packed() const { return packed_; }
  const PackedModel& operator*() const { return *packed_; }
  const PackedModel* operator->() const { return packed_.get(); }

 private:
  nb::list in_place_;
  std::shared_ptr<const PackedModel> packed_;
};

class PyPlan {
 public:
  // The binding keeps `model` alive: it holds the arrays that are read in place.
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
                                                 const Ids& offsets, const std::optional<Ids>& positions) {
    if (offsets.shape(0) < 2) throw std::invalid_argument("a batch needs at least one sequence");
    if (token_type_ids && token_type_ids->shape(0) != input_ids.shape(0))
      throw std::invalid_argument("token_type_ids must have a value a token");
    if (input_ids.shape(0) > INT32_MAX || offsets.shape(0) > INT32_MAX) throw std::invalid_argument("batch too large");
    if (positions && positions->shape(0) > input_ids.shape(0))
      throw std::invalid_argument("there are more positions than tokens");
    // Copies: another thread may write to the caller's arrays, and what was checked has to be what runs.
    const std::vector<int32_t> ids = copy(input_ids), bounds = copy(offsets);
    const std::vector<int32_t> types = token_type_ids ? copy(*token_type_ids) : std::vector<int32_t>();
    std::vector<int32_t> asked = positions ? copy(*positions) : std::vector<int32_t>();
    Batch batch;
    batch.input_ids = ids.data();
    batch.token_type_ids = token_type_ids ? types.data() : nullptr;
    batch.offsets = bounds.data();
    batch.batch_size = static_cast<int32_t>(bounds.size() - 1);
    batch.tokens = static_cast<int64_t>(ids.size());
    if (positions) {
      batch.num_positions = static_cast<int32_t>(asked.size());
      asked.reserve(1);  // so that there is an address even for none
      batch.positions = asked.data();
    }
    const auto columns = static_cast<size_t>(model().num_outputs());
    size_t rows = 0;
    std::unique_ptr<float[]> output;
    {
      nb::gil_scoped_release release;
      plan_->validate(batch);
      rows = static_cast<size_t>(plan_->output_rows(batch));
      output = std::make_unique_for_overwrite<float[]>(rows * columns);
      plan_->run(batch, output.get());
    }
    float* const data = output.get();
    const nb::capsule owner(output.release(), [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return {data, {rows, columns}, owner};
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
      .def(nb::init<const nb::dict&, const IsaName&, int32_t>(), "description"_a, "isa"_a = nb::none(),
           "packing_threads"_a = 0,
           "Packs a model's weights: plans share them. Takes at most 8 threads to it (0: as the CPUs that the process "
           "may use), which are gone afterwards. Raises ValueError where the description is unsound.")
      .def_prop_ro("isa", [](const PyModel& p) { return secateur::isa_name(p->isa()); });
  nb::class_<PyPlan>(m, "Plan")
      .def(nb::init<const PyModel&, int32_t, MaxTokens>(), "model"_a, "num_threads"_a = 1, "max_tokens"_a = nb::none(),
           nb::keep_alive<1, 2>(),
           "A model with threads of its own; max_tokens bounds the memory of a call. Raises ValueError, and "
           "RuntimeError where the system refuses a thread.")
      .def(nb::init<const nb::dict&, const IsaName&, int32_t, MaxTokens>(), "description"_a, "isa"_a = nb::none(),
           "num_threads"_a = 1, "max_tokens"_a = nb::none(), "The same with a model that nothing else shares.")
      .def("run", &PyPlan::run, "input_ids"_a.noconvert(), "token_type_ids"_a.noconvert().none(),
           "offsets"_a.noconvert(), "positions"_a.noconvert().none() = nb::none(),
           "Outputs [rows, num_outputs] float32 of a ragged batch of int32 token ids: a row a sequence, or, where the "
           "head is over every token, a row a token or one for each of the ascending positions. Thread-safe.")
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
      .def_prop_ro("num_outputs", [](const PyPlan& p) { return p.model().num_outputs(); })
      .def_prop_ro("every_token", [](const PyPlan& p) { return p.model().head_rows() == secateur::HeadRows::kEvery; })
      .def_prop_ro("vocab_size", [](const PyPlan& p) { return p.model().embed().vocab_size(); })
      .def_prop_ro("num_token_types", [](const PyPlan& p) { return p.model().embed().num_token_types(); })
      .def_prop_ro("max_sequence", [](const PyPlan& p) { return p.model().max_sequence(); });
}
