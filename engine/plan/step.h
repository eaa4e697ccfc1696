// A step of a plan: one fused pass over the ragged batch, shared out among the workers of a call.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/layout.h"

namespace secateur {

// A set of token rows and every buffer that holds one value a token. A plan has two: all tokens of the batch, and
// the first token of each sequence, which is all that what follows the last layer's keys and values depends on.
struct Rows {
  int32_t tokens = 0;
  int32_t tiles = 0;
  AlignedBuffer<float> residual;                           // [tile][H][32]
  AlignedBuffer<uint8_t> hidden, query, context, inner;    // activation layout
  AlignedBuffer<float> query_f32, context_f32, inner_f32;  // layout of the residual, which is the hidden state's too
  AlignedBuffer<float> row_scale;  // [tile][32], of what the last QuantizeRowsStep wrote into hidden, context or inner
  AlignedBuffer<float> rounded;  // what the next products of bfloat16 read: a tile in half of its place where in pairs
  int32_t tile_tokens(int32_t tile) const { return std::min(kTile, tokens - tile * kTile); }
};

// Channels of each of a plan's buffers: as many as the widest layer that uses it has, 0 where none does.
struct Widths {
  int32_t residual = 0, hidden = 0, query = 0, context = 0, inner = 0, key_value = 0;
  int32_t query_f32 = 0, context_f32 = 0, inner_f32 = 0, key_value_f32 = 0, rounded = 0, row_scale = 0;
  int32_t embedding = 0, head[2] = {0, 0};
};

// One call's batch and memory. Reused by later calls; grows to the largest group of tokens seen.
struct Call {
  const int32_t* input_ids = nullptr;
  const int32_t* token_type_ids = nullptr;
  const int32_t* offsets = nullptr;  // [batch_size + 1], from 0
  int32_t batch_size = 0;
  const int32_t* positions = nullptr;  // [head_rows] which tokens the head is asked for; nullptr: all that it knows
  int32_t head_rows = 0;
  float* output = nullptr;  // [head_rows][num_outputs]

  Rows all, first;
  AlignedBuffer<float> embedding;  // [tile][E][32], where a projection makes H channels of them
  AlignedBuffer<float> head[2];    // [head_rows][width], a row a token or sequence
  AlignedBuffer<int8_t> key;       // activation layout
  AlignedBuffer<int8_t> value;     // [channel][value_stride]
  int64_t value_stride = 0;
  AlignedBuffer<float> key_f32, value_f32;      // layout of the residual
  AlignedBuffer<int32_t> position;              // [tokens]
  AlignedBuffer<int32_t> zeros;                 // [tokens], the token types of a batch without
  std::vector<AlignedBuffer<uint8_t>> scratch;  // one a worker
  size_t bytes = 0;                             // of all these buffers
};

struct Worker {
  int32_t index = 0, count = 1;
  // The worker's part of `total` units, [begin, end).
  int64_t begin(int64_t total) const { return total * index / count; }
  int64_t end(int64_t total) const { return total * (index + 1) / count; }
};

// What `inspect` and the profile say about a step.
struct StepInfo {
  std::string name, kernel;
  int64_t n = 0, k = 0;                    // products only
  double density = 1.0;                    // stored blocks over all blocks
  int64_t packed_bytes = 0;                // of weights; 0 where an earlier step or a table holds the same
  const char* type = "";                   // of its multiplications: "u8s8", "f32" or "bf16", "" where it has none
  int32_t tile_tokens = 0, tile_rows = 0;  // what the kernel gets at a time, products only
};

// What a step has to do for a call.
struct StepWork {
  int64_t tokens = 0;
  int64_t macs = 0;           // multiplications of the dense matrices
  int64_t executed_macs = 0;  // of the weights that are stored
};

class Step {
 public:
  virtual ~Step() = default;
  virtual void run(Call& call, const Worker& worker) const = 0;
  virtual std::vector<StepInfo> info() const = 0;
  virtual StepWork work(const Call& call) const = 0;
  // Bytes of private memory a worker needs for sequences of at most `longest` tokens.
  virtual size_t scratch_bytes(int32_t longest) const { return static_cast<size_t>(longest) * 0; }
};

// How a tensor of activations is written: 1 / scale and the zero point of whoever reads it. Where there is none, the
// reader takes float32.
struct OutputScale {
  float inv_scale = 1.0f;
  int32_t zero_point = 0;
  bool operator==(const OutputScale&) const = default;
};
using Output = std::optional<OutputScale>;

// The hidden state's quantized form, as the projections that read it take it.
struct HiddenForm {
  Output out;                   // none where nothing reads it
  std::vector<uint16_t> order;  // which channel each place holds; empty: its own
};

}  // namespace secateur
