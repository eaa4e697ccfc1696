#include "plan/linear.h"

#include <bit>
#include <cmath>
#include <stdexcept>

#include "kernels/gemm_u8s8/gemm_u8s8.h"
#include "kernels/spmm_u8s8/spmm_u8s8.h"
#include "plan/check.h"

namespace secateur {
namespace {

// Above this share of non-empty blocks the dense kernel is faster (DESIGN 4.1; measured by secateur_kernel_bench).
constexpr double kDenseFrom = 0.7;
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

// Calls visit(col) for each block that the mask keeps in row n; without a mask that is every block.
template <class F>
void for_each_kept(const LinearRecord& record, int64_t n, F visit) {
  const int64_t per_row = record.k / kBlock;
  if (record.mask.data == nullptr) {
    for (int64_t col = 0; col < per_row; ++col) visit(col);
    return;
  }
  const int64_t bytes = record.mask.shape[1];
  const uint8_t* mask = record.mask.data + n * bytes;
  for (int64_t i = 0; i < bytes; ++i)
    for (uint32_t bits = mask[i]; bits != 0; bits &= bits - 1) {
      const int64_t col = i * 8 + std::countr_zero(bits);
      if (col >= per_row) fail(record.name + ": the mask keeps blocks past the last column");
      visit(col);
    }
}

// The non-empty blocks; with `keep_zeros` all of them.
Blocks collect(const LinearRecord& record, bool keep_zeros) {
  Blocks blocks;
  const int64_t per_row = record.k / kBlock;
  blocks.row_start.reserve(static_cast<size_t>(record.n) + 1);
  blocks.row_start.push_back(0);
  const int8_t zeros[kBlock] = {};
  const int8_t* next = record.weight.data;
  const int8_t* const end = next + record.weight.size();
  for (int64_t n = 0; n < record.n; ++n) {
    int64_t done = 0;
    const auto skip_to = [&](int64_t col) {
      for (; done < col; ++done)
        if (keep_zeros) append(blocks, done, zeros, record.name);
    };
    for_each_kept(record, n, [&](int64_t col) {
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

void validate(const LinearRecord& record) {
  const std::string& name = record.name;
  check(record.n > 0 && record.n % 4 == 0 && record.n <= (1 << 20), name + ": rows must be a multiple of 4");
  check(record.k > 0 && record.k % 4 == 0 && record.k <= kMaxCols,
        name + ": columns must be a multiple of 4, at most 16384");
  if (record.mask.data != nullptr) {
    check(record.mask.shape == std::vector<int64_t>{record.n, (record.k / kBlock + 7) / 8},
          name + ": the mask has a wrong shape");
    check(record.weight.shape.size() == 2 && record.weight.shape[1] == kBlock, name + ": values must be [B, 4]");
  } else {
    check(record.weight.shape == std::vector<int64_t>{record.n, record.k}, name + ": the weight has a wrong shape");
  }
  check(record.scale.size() == record.n && record.bias.size() == record.n,
        name + ": scale and bias must have a value a row");
  check_scale(record.input_scale, name + ": input_scale");
  check(record.input_zero_point >= 0 && record.input_zero_point <= 255, name + ": input_zero_point must be 0 .. 255");
  for (int64_t i = 0; i < record.n; ++i) {
    if (!is_scale(record.scale.data[i])) fail(name + ": weight_scale must be finite and positive");
    if (!std::isfinite(record.bias.data[i])) fail(name + ": bias is not finite");
  }
}

EpilogueFn choose_epilogue(const LinearRecord& record, const EpilogueKernels& kernels) {
  switch (record.role) {
    case Role::kQuery:
      return kernels.u8;
    case Role::kKey:
      return kernels.s8;
    case Role::kValue:
      return kernels.value;
    case Role::kAttnOut:
    case Role::kFfnOut:
      return kernels.add;
    case Role::kFfnIn:
      break;
  }
  switch (record.activation) {
    case Activation::kRelu:
      return kernels.relu;
    case Activation::kGelu:
    case Activation::kGeluNew:
      return kernels.gelu;
    case Activation::kNone:
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
    default:
      return Sink::kResidual;
  }
}

}  // namespace

LinearPart make_linear_part(const LinearRecord& record, Isa isa) {
  validate(record);
  LinearPart part;
  part.name = record.name;
  part.n = static_cast<int32_t>(record.n);
  part.k = static_cast<int32_t>(record.k);
  Blocks blocks = collect(record, /*keep_zeros=*/false);
  part.density = static_cast<double>(blocks.count()) / (static_cast<double>(record.n) * (record.k / kBlock));
  const bool dense = part.density > kDenseFrom;
  if (dense) blocks = collect(record, /*keep_zeros=*/true);
  part.kernel = dense ? &select_gemm_u8s8(isa) : &select_spmm_u8s8(isa);
  part.stored = blocks.count() * kBlock;
  part.weights = part.kernel->pack({part.n, part.k, blocks.row_start.data(), blocks.col.data(), blocks.values.data()});

  part.scale.resize(record.n);
  part.bias.resize(record.n);
  for (int32_t n = 0; n < part.n; ++n) {
    int32_t sum = 0;
    for (int32_t i = blocks.row_start[n] * kBlock; i < blocks.row_start[n + 1] * kBlock; ++i) sum += blocks.values[i];
    part.scale[n] = record.input_scale * record.scale.data[n];
    part.bias[n] = record.bias.data[n] - part.scale[n] * static_cast<float>(record.input_zero_point * sum);
  }
  part.sink = choose_sink(record.role);
  part.epilogue = choose_epilogue(record, select_epilogue(isa));
  part.gelu = record.activation == Activation::kGeluNew ? kGeluTanh : kGeluErf;
  return part;
}

void LinearStep::run(Call& call, const Worker& worker) const {
  Rows& rows = over_first_ ? call.first : call.all;
  const AlignedBuffer<uint8_t>& input = source_ == Source::kHidden    ? rows.hidden
                                        : source_ == Source::kContext ? rows.context
                                                                      : rows.inner;
  auto* const acc = reinterpret_cast<int32_t*>(call.scratch[worker.index].data());
  int64_t blocks = 0;
  for (const LinearPart& part : parts_) blocks += part.row_blocks();

  // Units are (part, row block, tile) in that order: the weights of a row block stay in the first cache while the
  // tiles, which the second one holds, pass over them.
  const int64_t begin = worker.begin(rows.tiles * blocks), end = worker.end(rows.tiles * blocks);
  for (int64_t unit = begin; unit < end; ++unit) {
    const auto tile = static_cast<int32_t>(unit % rows.tiles);
    auto block = static_cast<int32_t>(unit / rows.tiles);
    const LinearPart* part = parts_.data();
    for (; block >= part->row_blocks(); ++part) block -= part->row_blocks();

    ProductArgs product{};
    product.packed = part->weights.data.data();
    product.row_block = block;
    product.tokens = rows.tile_tokens(tile);
    product.x = input.data() + static_cast<ptrdiff_t>(tile) * kTile * part->k;
    product.acc = acc;
    product.prefetch = tile == 0 || unit == begin;  // the worker meets these weights for the first time
    for (product.chunk = 0; product.chunk < part->weights.num_chunks; ++product.chunk) part->kernel->run(product);

    EpilogueArgs epilogue{};
    epilogue.acc = acc;
    epilogue.scale = part->scale.data();
    epilogue.bias = part->bias.data();
    epilogue.row_begin = block * kRowBlock;
    epilogue.rows = std::min(kRowBlock, part->n - epilogue.row_begin);
    epilogue.tokens = product.tokens;
    epilogue.inv_scale = part->out.inv_scale;
    epilogue.zero_point = part->out.zero_point;
    epilogue.gelu = part->gelu;
    const ptrdiff_t tile_start = static_cast<ptrdiff_t>(tile) * kTile * part->n;
    switch (part->sink) {
      case Sink::kQuery:
        epilogue.out = rows.query.data() + tile_start;
        break;
      case Sink::kKey:
        epilogue.out = reinterpret_cast<uint8_t*>(call.key.data()) + tile_start;
        break;
      case Sink::kInner:
        epilogue.out = rows.inner.data() + tile_start;
        break;
      case Sink::kValue:
        epilogue.value = call.value.data() + static_cast<ptrdiff_t>(tile) * kTile;
        epilogue.value_stride = call.value_stride;
        break;
      case Sink::kResidual:
        epilogue.residual = rows.residual.data() + tile_start;
        break;
    }
    part->epilogue(epilogue);
  }
}

std::vector<StepInfo> LinearStep::info() const {
  std::vector<StepInfo> rows;
  for (const LinearPart& part : parts_)
    rows.push_back({part.name, part.kernel->name, part.n, part.k, part.density,
                    static_cast<int64_t>(part.weights.data.bytes()), "u8s8", kTile, std::min(kRowBlock, part.n)});
  return rows;
}

StepWork LinearStep::work(const Call& call) const {
  StepWork work{(over_first_ ? call.first : call.all).tokens, 0, 0};
  for (const LinearPart& part : parts_) {
    work.macs += work.tokens * part.n * part.k;
    work.executed_macs += work.tokens * part.stored;
  }
  return work;
}

size_t LinearStep::scratch_bytes(int32_t) const { return sizeof(int32_t) * kRowBlock * kTile; }

}  // namespace secateur
