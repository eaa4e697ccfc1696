#include "base/thread_pool.h"

#include <chrono>

namespace secateur {
namespace {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A worker that waits for the next call spins this long before it sleeps: calls in a row find it awake.
constexpr auto kSpin = std::chrono::microseconds(40);
// Spins between two looks at the clock, or before a waiter at the barrier offers its core to others.
constexpr int32_t kSpins = 64, kSpinsBeforeYield = 4096;

}  // namespace

void Barrier::wait() {
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == workers_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  for (int32_t spins = 0; phase_.load(std::memory_order_acquire) == phase;) {
    relax();
    if (++spins >= kSpinsBeforeYield) std::this_thread::yield();
  }
}

ThreadPool::ThreadPool(int32_t num_threads) : num_threads_(num_threads), barrier_(num_threads) {
  threads_.reserve(static_cast<size_t>(num_threads - 1));
  for (int32_t worker = 1; worker < num_threads; ++worker) threads_.emplace_back([this, worker] { loop(worker); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(const std::function<void(int32_t)>& work) {
  work_ = &work;
  running_.store(num_threads_ - 1, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  work(0);
  for (int32_t spins = 0; running_.load(std::memory_order_acquire) != 0;) {
    relax();
    if (++spins >= kSpinsBeforeYield) std::this_thread::yield();
  }
}

void ThreadPool::loop(int32_t worker) {
  uint32_t seen = 0;
  while (true) {
    const auto asleep = std::chrono::steady_clock::now() + kSpin;
    while (generation_.load(std::memory_order_acquire) == seen) {
      for (int32_t i = 0; i < kSpins; ++i) relax();
      if (std::chrono::steady_clock::now() > asleep) generation_.wait(seen, std::memory_order_acquire);
    }
    ++seen;
    if (stop_.load(std::memory_order_relaxed)) return;
    (*work_)(worker);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace secateur
