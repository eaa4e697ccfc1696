#include "base/thread_pool.h"

#ifdef __linux__
#include <pthread.h>
#endif

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <system_error>

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
#ifdef __linux__
  CPU_ZERO(&allowed_);
  sched_getaffinity(0, sizeof(allowed_), &allowed_);
  processors_ = CPU_COUNT(&allowed_);
#endif
  if (processors_ < 1) processors_ = static_cast<int32_t>(std::max(1u, std::thread::hardware_concurrency()));
  threads_.reserve(static_cast<size_t>(num_threads - 1));
  try {
    for (int32_t worker = 1; worker < num_threads; ++worker) threads_.emplace_back([this, worker] { loop(worker); });
  } catch (const std::system_error&) {
    const size_t started = threads_.size() + 1;
    stop();
    throw std::runtime_error("the system starts no more than " + std::to_string(started) + " of " +
                             std::to_string(num_threads) + " threads");
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stop_.store(true, std::memory_order_relaxed);
  wake_all();
  for (std::thread& thread : threads_) thread.join();
}

// Sequentially consistent: it must not pass the look at who sleeps that notify_all() begins with.
void ThreadPool::wake_all() {
  generation_.fetch_add(1, std::memory_order_seq_cst);
  generation_.notify_all();
}

// Keeps the threads off the processor that the caller runs on. In a virtual machine Linux takes an idle processor for
// a preempted one and may wake a thread where its waker runs; both then work by turns until the load is balanced, and
// a call takes five times as long. Where there are fewer processors than threads they have to share.
void ThreadPool::leave_caller_alone() {
#ifdef __linux__
  const int32_t cpu = sched_getcpu();
  if (cpu == caller_cpu_ || cpu < 0 || cpu >= CPU_SETSIZE) return;
  caller_cpu_ = cpu;
  cpu_set_t others = allowed_;
  CPU_CLR(cpu, &others);
  if (CPU_COUNT(&others) < num_threads_ - 1) return;
  for (std::thread& thread : threads_) pthread_setaffinity_np(thread.native_handle(), sizeof(others), &others);
#endif
}

void ThreadPool::run(const std::function<void(int32_t)>& work) {
  leave_caller_alone();
  work_ = &work;
  running_.store(num_threads_ - 1, std::memory_order_relaxed);
  wake_all();
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
