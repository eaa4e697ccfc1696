// Orders in which a matrix may want its input's channels. Whoever writes that input writes it so: a norm by its
// kernel, a product because its rows are packed in that order.
#pragma once
#include <algorithm>
#include <vector>

#include "plan/check.h"
#include "plan/description.h"

namespace secateur {

// Throws unless the order is empty or names each of the record's columns once, those of each group of `group` columns
// among themselves.
inline void check_order(const LinearRecord& record, int64_t group) {
  const Array<uint16_t>& order = record.order;
  if (order.shape.empty()) return;
  check(order.size() == record.k, record.name + ": order must have a value a column");
  std::vector<bool> seen(static_cast<size_t>(record.k));
  for (int64_t i = 0; i < record.k; ++i) {
    const uint16_t col = order.data[i];
    if (col >= record.k || seen[col]) fail(record.name + ": order must name each column once");
    if (col / group != i / group) fail(record.name + ": order moves a column out of its attention head");
    seen[col] = true;
  }
}

inline bool is_same(const Array<uint16_t>& a, const Array<uint16_t>& b) {
  return a.size() == b.size() && std::equal(a.data, a.data + a.size(), b.data);
}

// Puts the rows of a matrix in compressed rows, `per_entry` values an entry, into an order; an empty one leaves them.
template <class T>
void reorder_rows(const Array<uint16_t>& order, int32_t per_entry, std::vector<int32_t>& row_start,
                  std::vector<uint16_t>& col, std::vector<T>& values) {
  if (order.shape.empty()) return;
  std::vector<int32_t> new_start{0};
  std::vector<uint16_t> new_col;
  std::vector<T> new_values;
  new_col.reserve(col.size());
  new_values.reserve(values.size());
  for (int64_t i = 0; i < order.size(); ++i) {
    const int32_t begin = row_start[order.data[i]], end = row_start[order.data[i] + 1];
    new_col.insert(new_col.end(), col.begin() + begin, col.begin() + end);
    new_values.insert(new_values.end(), values.begin() + static_cast<ptrdiff_t>(begin) * per_entry,
                      values.begin() + static_cast<ptrdiff_t>(end) * per_entry);
    new_start.push_back(static_cast<int32_t>(new_col.size()));
  }
  row_start = std::move(new_start);
  col = std::move(new_col);
  values = std::move(new_values);
}

// Which row of the record becomes row n.
inline int64_t row_at(const Array<uint16_t>& order, int64_t n) { return order.shape.empty() ? n : order.data[n]; }

}  // namespace secateur
