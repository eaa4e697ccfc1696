#include "plan/quantize_rows.h"

namespace secateur {
namespace {

constexpr int32_t kTokens = 16;  // of a unit of work: where a kernel's arguments may begin

}  // namespace

QuantizeRowsStep::QuantizeRowsStep(std::string reader, Source source, int64_t cols, const Array<uint16_t>& order,
                                   bool over_first, Isa isa)
    : name_(std::move(reader) + ".quantize"),
      source_(source),
      cols_(static_cast<int32_t>(cols)),
      order_(order.data, order.data + order.size()),
      over_first_(over_first),
      kernel_(select_quantize_rows(isa)) {}

void QuantizeRowsStep::run(Call& call, const Worker& worker) const {
  Rows& rows = over_first_ ? call.first : call.all;
  const float* const from = float_source(source_, call, rows).data();
  uint8_t* const to = (source_ == Source::kHidden    ? rows.hidden
                       : source_ == Source::kContext ? rows.context
                                                     : rows.inner)
                          .data();
  const int32_t units = (rows.tokens + kTokens - 1) / kTokens;
  for (auto unit = static_cast<int32_t>(worker.begin(units)); unit < worker.end(units); ++unit) {
    const int32_t token = unit * kTokens, inside = token % kTile;
    const ptrdiff_t tile = static_cast<ptrdiff_t>(token - inside) * cols_;
    kernel_.run({from + tile + inside, cols_, order_.empty() ? nullptr : order_.data(),
                 std::min(kTokens, rows.tokens - token), to + tile + inside * kBlock, rows.row_scale.data() + token});
  }
}

std::vector<StepInfo> QuantizeRowsStep::info() const {
  StepInfo info;
  info.name = name_;
  info.kernel = kernel_.name;
  return {info};
}

}  // namespace secateur
