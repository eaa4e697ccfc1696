// What a model is, as the plan is told it: semantic steps in order, as typed records that own nothing.
// The plan validates them, fuses them and packs what it needs; embedding tables and the weights of the head are read in
// place and have to outlive the plan. Linear records that are the same in every field are packed once.
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
  bool operator==(const Array&) const = default;  // the same values in the same place
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
  TableRecord word, position;             // [V, E], [P, E]
  std::optional<TableRecord> token_type;  // [T, E]
  Array<float> gamma, beta;               // [E]
  struct Projection {
    Array<float> weight, bias;  // [H, E], [H]
  };
  std::optional<Projection> projection;  // after the norm, where E is not H
};

enum class Role { kQuery, kKey, kValue, kAttnOut, kFfnIn, kFfnOut, kProjection };
enum class Activation { kNone, kGelu, kGeluNew, kRelu, kTanh };  // tanh: of a head only

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
  bool dynamic = false;   // the input takes its scale token by token; the next two are not used
  float input_scale = 0;
  int32_t input_zero_point = 0;
  Activation activation = Activation::kNone;
  bool operator==(const LinearRecord&) const = default;
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

// Which rows of the last layer the head reads: those of each sequence's first token, of every token, or of a sequence
// the mean or the largest values of its tokens.
enum class HeadRows { kFirst, kEvery, kMean, kMax };

// What becomes of these rows, in this order; without anything they are the outputs themselves.
struct HeadRecord {
  HeadRows rows = HeadRows::kFirst;
  struct Dense {
    Array<float> weight, bias;  // [D, H], [D]
    Activation activation = Activation::kNone;
  };
  std::optional<Dense> dense;
  struct Norm {
    Array<float> gamma, beta;  // [D]
  };
  std::optional<Norm> norm;  // after a dense layer only
  struct Output {
    Weights weight;            // [L, D]
    Array<float> scale, bias;  // int8 only: [L]; [L]
  };
  std::optional<Output> output;
  bool normalize = false;  // each row to length 1
};

using StepRecord = std::variant<EmbedRecord, LinearRecord, AttentionRecord, AddNormRecord, HeadRecord>;

struct PlanDescription {
  int64_t hidden_size = 0;
  int64_t max_tokens = 0;  // longest sequence: rows of the position table
  float norm_eps = 0;
  std::vector<StepRecord> steps;
};

}  // namespace secateur
