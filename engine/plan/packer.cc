#include "plan/packer.h"

#ifdef __linux__
#include <sched.h>
#endif
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <atomic>
#include <exception>
#include <system_error>
#include <thread>

namespace secateur {
namespace {

int32_t processors() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int32_t>(std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace

void Packer::add(LinearStep& step, const LinearRecord& record, const Output& out, const Array<uint16_t>& row_order) {
  for (const Packed& packed : packed_)
    if (packed.out == out && packed.row_order == row_order && packed.record == record)
      return step.add(packed.part, /*packed_here=*/false);
  packed_.push_back({record, out, row_order, std::make_shared<LinearPart>(make_linear_part(record, out, isa_))});
  step.add(packed_.back().part, /*packed_here=*/true);
}

void Packer::run(int32_t threads) {
  std::vector<std::exception_ptr> failures(packed_.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < packed_.size(); i = next++) {
      const Packed& packed = packed_[i];
      try {
        pack_linear_part(packed.record, packed.row_order, isa_, *packed.part);
      } catch (...) {
        failures[i] = std::current_exception();
      }
    }
  };
  const int32_t count = std::min(threads > 0 ? threads : processors(), kMostThreads);
  std::vector<std::thread> helpers;
  try {
    for (int32_t i = 1; i < count && helpers.size() + 1 < packed_.size(); ++i) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // The system refuses another thread: those that are there do its work.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
#ifdef __GLIBC__
  if (!helpers.empty()) malloc_trim(0);  // what the threads needed on the way would stay with their heaps
#endif
  for (const std::exception_ptr& failure : failures)
    if (failure != nullptr) std::rethrow_exception(failure);
}

}  // namespace secateur
