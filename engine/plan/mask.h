// Which parts of a sparse matrix are kept: a bit each, least significant first, rows padded to bytes.
#pragma once
#include <bit>

#include "plan/check.h"
#include "plan/description.h"

namespace secateur {

// Calls visit(col) for each of the `per_row` columns that the mask keeps in row n, ascending; a column is one of
// `what` ("blocks", "weights"). Without a mask all are kept.
template <class Visit>
void for_each_kept(const LinearRecord& record, int64_t n, int64_t per_row, const char* what, Visit visit) {
  if (record.mask.data == nullptr) {
    for (int64_t col = 0; col < per_row; ++col) visit(col);
    return;
  }
  const int64_t bytes = record.mask.shape[1];
  const uint8_t* mask = record.mask.data + n * bytes;
  for (int64_t i = 0; i < bytes; ++i)
    for (uint32_t bits = mask[i]; bits != 0; bits &= bits - 1) {
      const int64_t col = i * 8 + std::countr_zero(bits);
      if (col >= per_row) fail(record.name + ": the mask keeps " + what + " past the last column");
      visit(col);
    }
}

}  // namespace secateur
