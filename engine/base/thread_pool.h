// A team of threads that runs one function at a time, with a barrier that costs about 100 ns.
#pragma once
#ifdef __linux__
#include <sched.h>
#endif

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace secateur {

// Lets a fixed number of workers wait for each other, again and again. Spins, then yields.
class Barrier {
 public:
  explicit Barrier(int32_t workers) : workers_(workers) {}
  void wait();

 private:
  const int32_t workers_;
  alignas(64) std::atomic<int32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

class ThreadPool {
 public:
  // Starts num_threads - 1 threads; the caller of run() is worker 0. Throws std::runtime_error where the system
  // refuses one of them.
  explicit ThreadPool(int32_t num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int32_t num_threads() const { return num_threads_; }
  Barrier& barrier() { return barrier_; }
  // How many the process might run on when the pool was made; at least 1.
  int32_t processors() const { return processors_; }

  // Calls work(worker) once on every thread and returns when all have. One caller at a time. `work` must not throw.
  void run(const std::function<void(int32_t worker)>& work);

 private:
  void loop(int32_t worker);
  void wake_all();
  void stop();
  void leave_caller_alone();

  const int32_t num_threads_;
  int32_t processors_ = 1;
  Barrier barrier_;
  const std::function<void(int32_t)>* work_ = nullptr;
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<int32_t> running_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
#ifdef __linux__
  cpu_set_t allowed_;        // processors of whoever made the pool
  int32_t caller_cpu_ = -1;  // the one that the threads are kept off
#endif
};

}  // namespace secateur
