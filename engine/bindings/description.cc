#include "bindings/description.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <map>
#include <set>
#include <stdexcept>

namespace nb = nanobind;

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

bool has(const nb::dict& record, const char* key) { return record.contains(key) && !record[key].is_none(); }

// Throws where one of the entries is there.
void refuse(const nb::dict& record, const std::string& what, std::initializer_list<const char*> keys) {
  for (const char* key : keys)
    if (has(record, key)) throw std::invalid_argument(what + " takes no '" + key + "'");
}

// Throws where there is an entry besides 'op' and these.
void refuse_unknown(const nb::dict& record, const std::string& op, const std::set<std::string>& known) {
  for (const auto& [key, given] : record) {
    std::string name;
    if (!nb::try_cast<std::string>(key, name)) throw std::invalid_argument("a key of a plan step is not a string");
    if (name != "op" && !known.contains(name))
      throw std::invalid_argument("the plan step '" + op + "' takes no '" + name + "'");
  }
}

// The entry's value by its name.
template <class T>
T named(const nb::dict& record, const char* key, const std::string& where, const std::map<std::string, T>& names) {
  const auto found = names.find(value<std::string>(record, key));
  if (found != names.end()) return found->second;
  std::string known;
  for (const auto& [name, meaning] : names) known += (known.empty() ? "" : ", ") + name;
  throw std::invalid_argument(where + ": unknown " + key + "; known are " + known);
}

const std::map<std::string, Activation> kActivations = {
    {"gelu", Activation::kGelu}, {"gelu_new", Activation::kGeluNew}, {"relu", Activation::kRelu}};

bool is_aligned(const void* data, size_t size) { return reinterpret_cast<uintptr_t>(data) % size == 0; }

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
  nb::list take_in_place() { return std::move(in_place_); }

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
    if (!has(record, key)) return {};
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
  // Outside of linear steps there is no bfloat16.
  Weights weights_but_bf16(const nb::dict& record, const char* key, const std::string& what) {
    Weights result = weights(record, key);
    if (is_bf16(result)) throw std::invalid_argument(what + " is bfloat16, and may be int8 or float32");
    return result;
  }

  TableRecord table(const nb::dict& record, const char* rows) {
    const std::string scale = std::string(rows) + "_scale";
    TableRecord result;
    result.rows = weights_but_bf16(record, rows, "the table '" + std::string(rows) + "'");
    in_place_.append(item(record, rows));
    if (is_f32(result.rows)) {
      refuse(record, "the table '" + std::string(rows) + "' is float32 and", {scale.c_str()});
    } else {
      result.scale = array<float>(record, scale.c_str());
      in_place_.append(item(record, scale.c_str()));
    }
    return result;
  }

  LinearRecord linear(const nb::dict& record) {
    static const std::map<std::string, Role> roles = {{"query", Role::kQuery},  {"key", Role::kKey},
                                                      {"value", Role::kValue},  {"attn_out", Role::kAttnOut},
                                                      {"ffn_in", Role::kFfnIn}, {"ffn_out", Role::kFfnOut}};
    LinearRecord result;
    result.name = value<std::string>(record, "name");
    result.role = named(record, "role", result.name, roles);
    if (has(record, "activation")) result.activation = named(record, "activation", result.name, kActivations);
    result.n = value<int64_t>(record, "n");
    result.k = value<int64_t>(record, "k");
    result.mask = optional_array<uint8_t>(record, "mask");
    result.weight = weights(record, result.mask.data != nullptr ? "values" : "weight");
    result.bias = array<float>(record, "bias");
    if (!is_s8(result.weight)) {
      refuse(record, result.name + (is_bf16(result.weight) ? " is bfloat16 and" : " is float32 and"),
             {"scale", "dynamic", "input_scale", "input_zero_point", "order"});
    } else {
      result.scale = array<float>(record, "scale");
      result.dynamic = has(record, "dynamic") && value<bool>(record, "dynamic");
      if (result.dynamic) {
        refuse(record, result.name + " takes its scale token by token and", {"input_scale", "input_zero_point"});
      } else {
        result.input_scale = value<float>(record, "input_scale");
        result.input_zero_point = value<int32_t>(record, "input_zero_point");
      }
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
      quantized |= has(record, key);
    if (quantized)
      result.scales = AttentionScales{value<float>(record, "query_scale"), value<float>(record, "key_scale"),
                                      value<float>(record, "value_scale"), value<int32_t>(record, "query_zero_point")};
    return result;
  }

  EmbedRecord embed(const nb::dict& record) {
    refuse_unknown(record, "embed",
                   {"word", "word_scale", "position", "position_scale", "token_type", "token_type_scale", "gamma",
                    "beta", "projection_weight", "projection_bias"});
    EmbedRecord result;
    result.word = table(record, "word");
    result.position = table(record, "position");
    if (has(record, "token_type"))
      result.token_type = table(record, "token_type");
    else
      refuse(record, "an embed step without 'token_type'", {"token_type_scale"});
    result.gamma = array<float>(record, "gamma");
    result.beta = array<float>(record, "beta");
    if (has(record, "projection_weight") || has(record, "projection_bias"))
      result.projection = {array<float>(record, "projection_weight"), array<float>(record, "projection_bias")};
    return result;
  }

  HeadRecord head(const nb::dict& record) {
    static const std::map<std::string, HeadRows> rows = {
        {"first", HeadRows::kFirst}, {"every", HeadRows::kEvery}, {"mean", HeadRows::kMean}, {"max", HeadRows::kMax}};
    static const std::map<std::string, Activation> activations = [] {
      auto known = kActivations;
      known["tanh"] = Activation::kTanh;
      return known;
    }();
    refuse_unknown(record, "head",
                   {"rows", "dense_weight", "dense_bias", "dense_activation", "gamma", "beta", "weight", "weight_scale",
                    "bias", "normalize"});
    HeadRecord result;
    result.rows = named(record, "rows", "head", rows);
    if (has(record, "dense_weight")) {
      result.dense = {array<float>(record, "dense_weight"), array<float>(record, "dense_bias"),
                      named(record, "dense_activation", "head.dense", activations)};
      in_place_.append(item(record, "dense_weight"));
    } else {
      refuse(record, "a head without 'dense_weight'", {"dense_bias", "dense_activation"});
    }
    if (has(record, "gamma") || has(record, "beta"))
      result.norm = {array<float>(record, "gamma"), array<float>(record, "beta")};
    if (has(record, "weight")) {
      HeadRecord::Output output{
          weights_but_bf16(record, "weight", "a head's 'weight'"), {}, array<float>(record, "bias")};
      if (is_f32(output.weight))
        refuse(record, "a head whose 'weight' is float32", {"weight_scale"});
      else
        output.scale = array<float>(record, "weight_scale");
      result.output = std::move(output);
      in_place_.append(item(record, "weight"));
    } else {
      refuse(record, "a head without 'weight'", {"weight_scale", "bias"});
    }
    if (has(record, "normalize")) result.normalize = value<bool>(record, "normalize");
    return result;
  }

  StepRecord read_step(const nb::dict& record) {
    const auto op = value<std::string>(record, "op");
    if (op == "embed") return embed(record);
    if (op == "linear") return linear(record);
    if (op == "attention") return attention(record);
    if (op == "add_norm")
      return AddNormRecord{value<std::string>(record, "name"), array<float>(record, "gamma"),
                           array<float>(record, "beta")};
    if (op == "head") return head(record);
    throw std::invalid_argument("unknown plan step '" + op + "'");
  }

  nb::list in_place_;
};

}  // namespace

ReadDescription read_description(const nb::dict& description) {
  DescriptionReader reader;
  PlanDescription records = reader.read(description);
  return {std::move(records), reader.take_in_place()};
}

}  // namespace secateur
