// What a model is, as the plan is told it: semantic steps in order, as typed records that own nothing.
// The plan validates them, fuses them and packs what it needs; embedding tables are read in place and have to
// outlive the plan.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace secateur {

template <class T>
struct Array {
  const T* data = nullptr;
  std::vector<int64_t> shape;
  int64_t size() const {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    return shape.empty() ? 0 : n;
  }
};

// The upper half of a float32.
struct Bf16 {
  uint16_t bits;
};

// Weights are int8, float32 or, in a linear step, bfloat16, matrix by matrix; their type decides what computes with
// them.
using Weights = std::variant<Array<int8_t>, Array<float>, Array<Bf16>>;

inline bool is_s8(const Weights& weights) { return std::holds_alternative<Array<int8_t>>(weights); }
inline bool is_f32(const Weights& weights) { return std::holds_alternative<Array<float>>(weights); }
inline bool is_bf16(const Weights& weights) { return std::holds_alternative<Array<Bf16>>(weights); }

struct TableRecord {
  Weights rows;        // [V, H]
  Array<float> scale;  // int8 only: [V]
};

struct EmbedRecord {
  TableRecord word, position, token_type;
  Array<float> gamma, beta;  // [H]
};

enum class Role { kQuery, kKey, kValue, kAttnOut, kFfnIn, kFfnOut };
enum class Activation { kNone, kGelu, kGeluNew, kRelu };

struct LinearRecord {
  std::string name;
  Role role = Role::kQuery;
  int64_t n = 0, k = 0;
  // Dense: [N, K]. Sparse, in row-major order: int8 [B, 4], the kept blocks; else [B], the kept weights.
  Weights weight;
  // Sparse only, least significant bit first: int8 [N, ceil(K / 32)], a bit a block; else [N, ceil(K / 8)], a bit a
  // weight.
  Array<uint8_t> mask;
  Array<float> bias;  // [N]
  // int8 only:
  Array<float> scale;     // [N]
  Array<uint16_t> order;  // [K] which input each column of the blocks stands for; empty: its own
  float input_scale = 0;
  int32_t input_zero_point = 0;
  Activation activation = Activation::kNone;
};

struct AttentionScales {
  float query = 0, key = 0, value = 0;
  int32_t query_zero_point = 0;
};

struct AttentionRecord {
  std::string name;
  int64_t num_heads = 0, head_dim = 0;
  std::optional<AttentionScales> scales;  // without: float32
};

struct AddNormRecord {
  std::string name;
  Array<float> gamma, beta;  // [H]
};

// Pooler (where it has weights: tanh(W h + b) of each sequence's first token) and classifier.
struct HeadRecord {
  Array<float> pooler_weight, pooler_bias;  // [H, H], [H]; empty: no pooler
  Array<float> weight, bias;                // [L, H], [L]
};

using StepRecord = std::variant<EmbedRecord, LinearRecord, AttentionRecord, AddNormRecord, HeadRecord>;

struct PlanDescription {
  int64_t hidden_size = 0;
  int64_t max_tokens = 0;  // longest sequence: rows of the position table
  float norm_eps = 0;
  std::vector<StepRecord> steps;
};

}  // namespace secateur
