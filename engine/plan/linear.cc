#include "plan/linear.h"

#include <cmath>
#include <stdexcept>

#include "kernels/gemm_u8s8/gemm_u8s8.h"
#include "kernels/quantize_rows/quantize_rows.h"
#include "kernels/spmm_u8s8/spmm_u8s8.h"
#include "plan/check.h"
#include "plan/linear_f32.h"
#include "plan/mask.h"
#include "plan/order.h"

namespace secateur {
namespace {

constexpr int64_t kMaxCols = 16384;

struct Blocks {
  std::vector<int32_t> row_start;
  std::vector<uint16_t> col;
  std::vector<int8_t> values;
  int64_t count() const { return static_cast<int64_t>(col.size()); }
};

void append(Blocks& blocks, int64_t col, const int8_t* w, const std::string& name) {
  for (int32_t i = 0; i < kBlock; ++i)
    if (w[i] == -128) fail(name + ": weight -128 is outside -127 .. 127");
  blocks.col.push_back(static_cast<uint16_t>(col));
  blocks.values.insert(blocks.values.end(), w, w + kBlock);
}

bool is_zero(const int8_t* w) { return (w[0] | w[1] | w[2] | w[3]) == 0; }

// The non-empty blocks; with `keep_zeros` all of them.
Blocks collect(const LinearRecord& record, bool keep_zeros) {
  Blocks blocks;
  const int64_t per_row = record.k / kBlock;
  blocks.row_start.reserve(static_cast<size_t>(record.n) + 1);
  blocks.row_start.push_back(0);
  const int8_t zeros[kBlock] = {};
  const auto& weight = std::get<Array<int8_t>>(record.weight);
  const int8_t* next = weight.data;
  const int8_t* const end = next + weight.size();
  for (int64_t n = 0; n < record.n; ++n) {
    int64_t done = 0;
    const auto skip_to = [&](int64_t col) {
      for (; done < col; ++done)
        if (keep_zeros) append(blocks, done, zeros, record.name);
    };
    for_each_kept(record, n, per_row, "blocks", [&](int64_t col) {
      skip_to(col);
      if (next + kBlock > end) fail(record.name + ": the mask keeps more blocks than there are values");
      if (keep_zeros || !is_zero(next)) append(blocks, col, next, record.name);
      next += kBlock;
      ++done;
    });
    skip_to(per_row);
    blocks.row_start.push_back(static_cast<int32_t>(blocks.count()));
  }
  check(next == end, record.name + ": there are more values than the mask keeps");
  return blocks;
}

void validate_s8(const LinearRecord& record) {
  const std::string& name = record.name;
  const auto& weight = std::get<Array<int8_t>>(record.weight);
  if (record.mask.data != nullptr) {
    check(record.mask.shape == std::vector<int64_t>{record.n, (record.k / kBlock + 7) / 8},
          name + ": the mask has a wrong shape");
    check(weight.shape.size() == 2 && weight.shape[1] == kBlock, name + ": values must be [B, 4]");
  } else {
    check(weight.shape == std::vector<int64_t>{record.n, record.k}, name + ": the weight has a wrong shape");
  }
  check(record.scale.size() == record.n, name + ": scale must have a value a row");
  if (!record.dynamic) {
    check_scale(record.input_scale, name + ": input_scale");
    check(record.input_zero_point >= 0 && record.input_zero_point <= 255, name + ": input_zero_point must be 0 .. 255");
  }
  for (int64_t i = 0; i < record.n; ++i)
    if (!is_scale(record.scale.data[i])) fail(name + ": weight_scale must be finite and positive");
}

void validate(const LinearRecord& record) {
  const std::string& name = record.name;
  check(record.n > 0 && record.n % 4 == 0 && record.n <= (1 << 20), name + ": rows must be a multiple of 4");
  check(record.k > 0 && record.k % 4 == 0 && record.k <= kMaxCols,
        name + ": columns must be a multiple of 4, at most 16384");
  check(record.n * record.k <= INT32_MAX, name + ": must have fewer than 2^31 weights");
  check(is_s8(record.weight) || !record.dynamic, name + ": only the input of an int8 matrix is quantized");
  if (is_s8(record.weight))
    validate_s8(record);
  else
    validate_f32(record);
  check(record.bias.size() == record.n, name + ": bias must have a value a row");
  for (int64_t i = 0; i < record.n; ++i)
    if (!std::isfinite(record.bias.data[i])) fail(name + ": bias is not finite");
}

// Of the sums of a matrix: what the reader of the output takes, which is float32 where there is no scale.
EpilogueFn choose_epilogue(const LinearRecord& record, bool to_f32, const EpilogueForms& forms) {
  switch (record.role) {
    case Role::kProjection:
      return forms.f32;
    case Role::kQuery:
      return to_f32 ? forms.f32 : forms.u8;
    case Role::kKey:
      return to_f32 ? forms.f32 : forms.s8;
    case Role::kValue:
      return to_f32 ? forms.f32 : forms.value;
    case Role::kAttnOut:
    case Role::kFfnOut:
      return forms.add;
    case Role::kFfnIn:
      break;
  }
  switch (record.activation) {
    case Activation::kRelu:
      return to_f32 ? forms.relu_f32 : forms.relu;
    case Activation::kGelu:
    case Activation::kGeluNew:
      return to_f32 ? forms.gelu_f32 : forms.gelu;
    case Activation::kNone:
    case Activation::kTanh:
      break;
  }
  throw std::invalid_argument(record.name + ": the inner projection has no activation");
}

Sink choose_sink(Role role) {
  switch (role) {
    case Role::kQuery:
      return Sink::kQuery;
    case Role::kKey:
      return Sink::kKey;
    case Role::kValue:
      return Sink::kValue;
    case Role::kFfnIn:
      return Sink::kInner;
    case Role::kProjection:
      return Sink::kHidden;
    default:
      return Sink::kResidual;
  }
}

// Where the rows of a part go for one tile, and in which form.
void set_output(const LinearPart& part, int32_t tile, Rows& rows, Call& call, EpilogueArgs& args) {
  const ptrdiff_t tile_start = static_cast<ptrdiff_t>(tile) * kTile * part.n;
  if (part.sink == Sink::kResidual) {
    args.residual = rows.residual.data() + tile_start;
    return;
  }
  if (!part.out) {
    AlignedBuffer<float>& to = part.sink == Sink::kQuery   ? rows.query_f32
                               : part.sink == Sink::kKey   ? call.key_f32
                               : part.sink == Sink::kValue ? call.value_f32
                               : part.sink == Sink::kInner ? rows.inner_f32
                                                           : rows.residual;
    args.out_f32 = to.data() + tile_start;
    return;
  }
  args.inv_scale = part.out->inv_scale;
  args.zero_point = part.out->zero_point;
  if (part.sink == Sink::kValue) {
    args.value = call.value.data() + static_cast<ptrdiff_t>(tile) * kTile;
    args.value_stride = call.value_stride;
  } else if (part.sink == Sink::kKey) {
    args.out = reinterpret_cast<uint8_t*>(call.key.data()) + tile_start;
  } else {
    args.out = (part.sink == Sink::kQuery ? rows.query : rows.inner).data() + tile_start;
  }
}

void pack_s8(const LinearRecord& record, const Array<uint16_t>& row_order, Isa isa, LinearPart& part) {
  Blocks blocks = collect(record, /*keep_zeros=*/false);
  part.density = static_cast<double>(blocks.count()) / (static_cast<double>(record.n) * (record.k / kBlock));
  const ProductKernel &spmm = select_spmm_u8s8(isa), &gemm = select_gemm_u8s8(isa);
  const bool dense = gemm.cost.of(part.n, record.n * record.k) < spmm.cost.of(part.n, blocks.count() * kBlock);
  if (dense) blocks = collect(record, /*keep_zeros=*/true);
  reorder_rows(row_order, kBlock, blocks.row_start, blocks.col, blocks.values);
  part.kernel = dense ? &gemm : &spmm;
  part.stored = blocks.count() * kBlock;
  part.weights = part.kernel->pack({part.n, part.k, blocks.row_start.data(), blocks.col.data(), blocks.values.data()});

  part.scale.resize(record.n);
  part.bias.resize(record.n);
  part.start.resize(part.dynamic ? record.n : 0);
  for (int32_t n = 0; n < part.n; ++n) {
    int32_t sum = 0;
    for (int32_t i = blocks.row_start[n] * kBlock; i < blocks.row_start[n + 1] * kBlock; ++i) sum += blocks.values[i];
    const int64_t row = row_at(row_order, n);
    if (part.dynamic) {
      part.scale[n] = record.scale.data[row];
      part.bias[n] = record.bias.data[row];
      part.start[n] = -kRowsZeroPoint * sum;
      continue;
    }
    part.scale[n] = record.input_scale * record.scale.data[row];
    part.bias[n] = record.bias.data[row] - part.scale[n] * static_cast<float>(record.input_zero_point * sum);
    if (!std::isfinite(part.scale[n]) || !std::isfinite(part.bias[n]))
      fail(record.name + ": input_scale times weight_scale is too large for a float");
  }
}

}  // namespace

LinearPart make_linear_part(const LinearRecord& record, const Output& out, Isa isa) {
  validate(record);
  LinearPart part;
  part.name = record.name;
  part.n = static_cast<int32_t>(record.n);
  part.k = static_cast<int32_t>(record.k);
  part.out = out;
  part.sink = choose_sink(record.role);
  part.gelu = record.activation == Activation::kGeluNew ? kGeluTanh : kGeluErf;
  const EpilogueKernels& epilogue = select_epilogue(isa);
  part.dynamic = record.dynamic;
  const EpilogueForms& forms = !is_s8(record.weight) ? *epilogue.f32 : record.dynamic ? *epilogue.rows : *epilogue.s32;
  part.epilogue = choose_epilogue(record, !out.has_value(), forms);
  return part;
}

void pack_linear_part(const LinearRecord& record, const Array<uint16_t>& row_order, Isa isa, LinearPart& part) {
  if (is_s8(record.weight))
    pack_s8(record, row_order, isa, part);
  else
    pack_f32(record, row_order, isa, part);
}

void LinearStep::multiply(const LinearPart& part, const Call& call, int32_t block, int32_t tile, bool prefetch,
                          uint8_t* acc) const {
  const Rows& rows = over_first_ ? call.first : call.all;
  const ptrdiff_t tile_start = static_cast<ptrdiff_t>(tile) * kTile * part.k;
  const uint8_t* const packed = part.weights.data.data();
  const int32_t tokens = rows.tile_tokens(tile), chunks = part.weights.num_chunks;
  if (part.kernel_f32 != nullptr) {
    const AlignedBuffer<float>& x = part.rounds ? rows.rounded : float_source(source_, call, rows);
    auto* const sums = reinterpret_cast<float*>(acc);
    for (int32_t chunk = 0; chunk < chunks; ++chunk)
      part.kernel_f32->run({packed, chunk, block, tokens, x.data() + tile_start, sums, prefetch});
    return;
  }
  const AlignedBuffer<uint8_t>& x = source_ == Source::kHidden    ? rows.hidden
                                    : source_ == Source::kContext ? rows.context
                                                                  : rows.inner;
  auto* const sums = reinterpret_cast<int32_t*>(acc);
  for (int32_t chunk = 0; chunk < chunks; ++chunk)
    part.kernel->run({packed, chunk, block, tokens, x.data() + tile_start, sums, prefetch});
}

void LinearStep::run(Call& call, const Worker& worker) const {
  Rows& rows = over_first_ ? call.first : call.all;
  uint8_t* const acc = call.scratch[worker.index].data();
  int64_t blocks = 0;
  for (const Entry& entry : parts_) blocks += entry.part->row_blocks();

  // Units are (part, row block, tile) in that order: the weights of a row block stay in the first cache while the
  // tiles, which the second one holds, pass over them.
  const int64_t begin = worker.begin(rows.tiles * blocks), end = worker.end(rows.tiles * blocks);
  for (int64_t unit = begin; unit < end; ++unit) {
    const auto tile = static_cast<int32_t>(unit % rows.tiles);
    auto block = static_cast<int32_t>(unit / rows.tiles);
    const Entry* entry = parts_.data();
    for (; block >= entry->part->row_blocks(); ++entry) block -= entry->part->row_blocks();
    const LinearPart* const part = entry->part.get();

    // At the first tile the worker meets these weights for the first time.
    multiply(*part, call, block, tile, /*prefetch=*/tile == 0 || unit == begin, acc);

    EpilogueArgs epilogue{};
    epilogue.acc = reinterpret_cast<const int32_t*>(acc);
    epilogue.acc_f32 = reinterpret_cast<const float*>(acc);
    epilogue.scale = part->scale.data();
    epilogue.bias = part->bias.data();
    epilogue.start = part->start.data();
    epilogue.row_scale = part->dynamic ? rows.row_scale.data() + static_cast<ptrdiff_t>(tile) * kTile : nullptr;
    epilogue.row_begin = block * kRowBlock;
    epilogue.rows = std::min(kRowBlock, part->n - epilogue.row_begin);
    epilogue.tokens = rows.tile_tokens(tile);
    epilogue.gelu = part->gelu;
    set_output(*part, tile, rows, call, epilogue);
    part->epilogue(epilogue);
  }
}

std::vector<StepInfo> LinearStep::info() const {
  std::vector<StepInfo> rows;
  for (const auto& [shared, packed_here] : parts_) {
    const LinearPart& part = *shared;
    const auto bytes = static_cast<int64_t>(packed_here ? part.weights.data.bytes() : 0);
    rows.push_back({part.name, part.kernel_name(), part.n, part.k, part.density, bytes, part.type(), kTile,
                    std::min(kRowBlock, part.n)});
  }
  return rows;
}

StepWork LinearStep::work(const Call& call) const {
  StepWork work{(over_first_ ? call.first : call.all).tokens, 0, 0};
  for (const Entry& entry : parts_) {
    work.macs += work.tokens * entry.part->n * entry.part->k;
    work.executed_macs += work.tokens * entry.part->stored;
  }
  return work;
}

// Sums are int32 or float.
size_t LinearStep::scratch_bytes(int32_t) const { return sizeof(int32_t) * kRowBlock * kTile; }

}  // namespace secateur
