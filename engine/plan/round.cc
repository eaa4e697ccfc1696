#include "plan/round.h"

namespace secateur {
namespace {

constexpr int32_t kColumns = 64;  // of a unit of work; even, so that pairs stay together

}  // namespace

void RoundStep::run(Call& call, const Worker& worker) const {
  Rows& rows = over_first_ ? call.first : call.all;
  const int64_t blocks = (cols_ + kColumns - 1) / kColumns, units = rows.tiles * blocks;
  const ptrdiff_t share = kernel_.form == Bf16Form::kPairs ? 2 : 1;
  for (int64_t unit = worker.begin(units); unit < worker.end(units); ++unit) {
    const auto tile = static_cast<int32_t>(unit / blocks), first = static_cast<int32_t>(unit % blocks) * kColumns;
    const ptrdiff_t start = static_cast<ptrdiff_t>(tile) * kTile * cols_,
                    inside = static_cast<ptrdiff_t>(first) * kTile;
    kernel_.run({float_source(source_, call, rows).data() + start + inside, std::min(kColumns, cols_ - first),
                 rows.tile_tokens(tile), rows.rounded.data() + start + inside / share});
  }
}

std::vector<StepInfo> RoundStep::info() const {
  StepInfo info;
  info.name = "round";
  info.kernel = kernel_.name;
  return {info};
}

}  // namespace secateur
