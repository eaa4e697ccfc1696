#include "plan/linear_f32.h"

#include <cmath>
#include <type_traits>

#include "kernels/bf16.h"
#include "kernels/gemm_bf16/gemm_bf16.h"
#include "kernels/gemm_f32/gemm_f32.h"
#include "kernels/spmm_bf16/spmm_bf16.h"
#include "kernels/spmm_f32/spmm_f32.h"
#include "plan/check.h"
#include "plan/mask.h"
#include "plan/order.h"

namespace secateur {
namespace {

struct Entries {
  std::vector<int32_t> row_start{0};
  std::vector<uint16_t> col;
  std::vector<float> values;

  void append(int64_t at, float value) {
    col.push_back(static_cast<uint16_t>(at));
    values.push_back(value);
  }
  void end_row() { row_start.push_back(static_cast<int32_t>(values.size())); }
};

float to_float(float value) { return value; }
float to_float(Bf16 value) { return widen_bf16(value.bits); }

// The weights that are not 0; with `keep_zeros` all of them. The mask has been checked.
template <class T>
Entries collect(const LinearRecord& record, bool keep_zeros) {
  Entries entries;
  const T* next = std::get<Array<T>>(record.weight).data;
  for (int64_t n = 0; n < record.n; ++n) {
    int64_t done = 0;
    const auto fill_to = [&](int64_t col) {
      for (; done < col; ++done)
        if (keep_zeros) entries.append(done, 0.0f);
    };
    for_each_kept(record, n, record.k, "weights", [&](int64_t col) {
      fill_to(col);
      const float value = to_float(*next++);
      if (keep_zeros || value != 0.0f) entries.append(col, value);
      ++done;
    });
    fill_to(record.k);
    entries.end_row();
  }
  return entries;
}

// Checks mask and values against each other; returns how many weights are not 0.
template <class T>
int64_t count_weights(const LinearRecord& record) {
  const auto& values = std::get<Array<T>>(record.weight);
  int64_t kept = 0, count = 0;
  for (int64_t n = 0; n < record.n; ++n) for_each_kept(record, n, record.k, "weights", [&](int64_t) { ++kept; });
  check(kept == values.size(), record.name + ": the mask keeps " + std::to_string(kept) + " weights, but there are " +
                                   std::to_string(values.size()) + " values");
  for (int64_t i = 0; i < values.size(); ++i) {
    const float value = to_float(values.data[i]);
    if (!std::isfinite(value)) fail(record.name + ": a weight is not finite");
    if (std::is_same_v<T, Bf16> && value != 0.0f && std::fabs(value) < kLeastWeight)
      fail(record.name + ": a bfloat16 weight is smaller than 2^-50, but not 0");
    count += value != 0.0f;
  }
  return count;
}

template <class T>
void validate_shapes(const LinearRecord& record) {
  const auto& weight = std::get<Array<T>>(record.weight);
  if (record.mask.data != nullptr) {
    check(record.mask.shape == std::vector<int64_t>{record.n, (record.k + 7) / 8},
          record.name + ": the mask has a wrong shape");
    check(weight.shape.size() == 1, record.name + ": values must be [B]");
  } else {
    check(weight.shape == std::vector<int64_t>{record.n, record.k}, record.name + ": the weight has a wrong shape");
  }
  check(record.scale.shape.empty(), record.name + ": a matrix that is not int8 has no scale");
}

template <class T>
void pack(const LinearRecord& record, const Array<uint16_t>& row_order, const ProductF32Kernel& spmm,
          const ProductF32Kernel& gemm, LinearPart& part) {
  const int64_t kept = count_weights<T>(record);
  part.density = static_cast<double>(kept) / (static_cast<double>(record.n) * record.k);
  const bool dense = gemm.cost.of(part.n, record.n * record.k) < spmm.cost.of(part.n, kept);
  Entries entries = collect<T>(record, dense);
  reorder_rows(row_order, 1, entries.row_start, entries.col, entries.values);
  part.kernel_f32 = dense ? &gemm : &spmm;
  part.stored = static_cast<int64_t>(entries.values.size());
  part.weights =
      part.kernel_f32->pack({part.n, part.k, entries.row_start.data(), entries.col.data(), entries.values.data()});
  part.bias.resize(static_cast<size_t>(record.n));
  for (int32_t n = 0; n < part.n; ++n) part.bias[n] = record.bias.data[row_at(row_order, n)];
}

}  // namespace

void validate_f32(const LinearRecord& record) {
  if (is_bf16(record.weight))
    validate_shapes<Bf16>(record);
  else
    validate_shapes<float>(record);
}

void pack_f32(const LinearRecord& record, const Array<uint16_t>& row_order, Isa isa, LinearPart& part) {
  part.rounds = is_bf16(record.weight);
  if (!part.rounds) return pack<float>(record, row_order, select_spmm_f32(isa), select_gemm_f32(isa), part);
  const Bf16Form form = bf16_form(isa);
  pack<Bf16>(record, row_order, select_spmm_bf16(isa, form).product, select_gemm_bf16(isa, form).product, part);
}

}  // namespace secateur
