#include "base/fork.h"

#include <pthread.h>

#include <atomic>

namespace secateur {
namespace {

std::atomic<uint64_t> depth{0};

}  // namespace

uint64_t fork_depth() {
  [[maybe_unused]] static const int registered =
      pthread_atfork(nullptr, nullptr, [] { depth.fetch_add(1, std::memory_order_relaxed); });
  return depth.load(std::memory_order_relaxed);
}

}  // namespace secateur
