// What a model is, as the plan is told it: semantic steps in order, as typed records that own nothing.
// The plan validates them, fuses them and packs what it needs; embedding tables are read in place and have to
// outlive the plan.
#pragma once
#include <cstdint>
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

struct TableRecord {
  Array<int8_t> rows;  // [V, H]
  Array<float> scale;  // [V]
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
  Array<int8_t> weight;  // dense: [N, K]; sparse: [B, 4], the kept blocks in row-major order
  Array<uint8_t> mask;   // sparse only: [N, ceil(K / 32)], a bit a block, least significant first
  Array<float> scale;    // [N]
  Array<float> bias;     // [N]
  float input_scale = 0;
  int32_t input_zero_point = 0;
  Activation activation = Activation::kNone;
};

struct AttentionRecord {
  std::string name;
  int64_t num_heads = 0, head_dim = 0;
  float query_scale = 0, key_scale = 0, value_scale = 0;
  int32_t query_zero_point = 0;
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
