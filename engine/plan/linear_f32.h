// The float32 or bfloat16 matrix of a linear step.
#pragma once
#include "plan/linear.h"

namespace secateur {

// The part of validate() that is about float32 and bfloat16 weights: shapes, mask, no int8 quantization. Throws
// std::invalid_argument.
void validate_f32(const LinearRecord& record);

// Chooses a kernel for a matrix that passed validate_f32() and packs it into `part`. Throws std::invalid_argument
// where a weight is not finite, the mask does not fit the values or a bfloat16 weight is smaller than kLeastWeight.
void pack_f32(const LinearRecord& record, const Array<uint16_t>& row_order, Isa isa, LinearPart& part);

}  // namespace secateur
