#include "kernels/embedding/embedding.h"

namespace secateur {

void embedding_reference(const EmbeddingArgs& args) {
  const auto value = [&](const EmbeddingTable& table, int32_t row, int32_t n) {
    const ptrdiff_t at = static_cast<ptrdiff_t>(row) * args.channels + n;
    return table.rows_f32 != nullptr ? table.rows_f32[at] : static_cast<float>(table.rows[at]) * table.scale[row];
  };
  for (int32_t n = 0; n < args.channels; ++n)
    for (int32_t t = 0; t < kTile; ++t) {
      float sum = 0.0f;
      if (t < args.tokens)
        sum = (value(args.word, args.word_id[t], n) + value(args.token_type, args.token_type_id[t], n)) +
              value(args.position, args.position_id[t], n);
      args.h[static_cast<ptrdiff_t>(n) * kTile + t] = sum;
    }
}

}  // namespace secateur
