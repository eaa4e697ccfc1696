// Packs the matrices of a model, each once and several at a time.
#pragma once
#include <memory>
#include <vector>

#include "base/isa.h"
#include "plan/linear.h"

namespace secateur {

class Packer {
 public:
  explicit Packer(Isa isa) : isa_(isa) {}
  // Gives the step its part, which has no weights before run(). Two of a sort are the same record with the same
  // reader: layers that share a matrix share the part. Throws std::invalid_argument where the record is unsound in
  // anything but its weights.
  void add(LinearStep& step, const LinearRecord& record, const Output& out, const Array<uint16_t>& row_order);

  // Packs what was added, on `threads` threads or, where that is 0, on as many as there are processors for the process
  // (but not more than kMostThreads: each needs memory for a matrix on the way). What is packed does not depend on
  // them, and none is left afterwards. Throws std::invalid_argument about the first matrix whose weights are unsound.
  void run(int32_t threads);

 private:
  struct Packed {
    LinearRecord record;
    Output out;
    Array<uint16_t> row_order;
    std::shared_ptr<LinearPart> part;
  };
  static constexpr int32_t kMostThreads = 8;
  Isa isa_;
  std::vector<Packed> packed_;
};

}  // namespace secateur
