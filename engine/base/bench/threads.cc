// secateur_thread_bench [most threads]: what sharing work costs on this machine, as one JSON object.
//
// For each number of threads: nanoseconds of a barrier, of a call that finds the threads awake or asleep, and the GB/s
// at which they read memory together. Each is the best of many rounds.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"

namespace secateur::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int32_t kRounds = 25, kBarriers = 2000, kCalls = 200;
constexpr size_t kWordsEach = size_t{8} << 20;  // 64 MB a thread: far more than the caches hold
constexpr auto kPause = std::chrono::milliseconds(2);

double nanoseconds(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

// Nanoseconds of the fastest of many calls, with something untimed before each.
template <class Before, class F>
double fastest(int32_t rounds, Before before, F call) {
  double best = 1e18;
  for (int32_t round = 0; round < rounds; ++round) {
    before();
    const auto start = Clock::now();
    call();
    best = std::min(best, nanoseconds(start));
  }
  return best;
}

constexpr auto kNothing = [] {};

double barrier_ns(ThreadPool& pool) {
  const auto wait = [&](int32_t) {
    for (int32_t i = 0; i < kBarriers; ++i) pool.barrier().wait();
  };
  return fastest(kRounds, kNothing, [&] { pool.run(wait); }) / kBarriers;
}

double awake_ns(ThreadPool& pool) {
  return fastest(kRounds, kNothing,
                 [&] {
                   for (int32_t i = 0; i < kCalls; ++i) pool.run([](int32_t) {});
                 }) /
         kCalls;
}

double asleep_ns(ThreadPool& pool) {
  return fastest(kRounds, [] { std::this_thread::sleep_for(kPause); }, [&] { pool.run([](int32_t) {}); });
}

uint64_t sum(const uint64_t* words, size_t count) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i < count; i += 8)
    for (size_t j = 0; j < 8; ++j) sums[j] += words[i + j];
  uint64_t total = 0;
  for (const uint64_t part : sums) total += part;
  return total;
}

double read_gbs(ThreadPool& pool, const std::vector<AlignedBuffer<uint64_t>>& buffers) {
  std::vector<uint64_t> sums(buffers.size() * 8);  // a cache line each
  const auto read = [&](int32_t worker) {
    const auto index = static_cast<size_t>(worker);
    sums[index * 8] += sum(buffers[index].data(), kWordsEach);
  };
  const double best = fastest(kRounds, kNothing, [&] { pool.run(read); });
  volatile uint64_t used = sums[0];  // a sum that is used: the reading cannot be left out
  (void)used;
  return static_cast<double>(pool.num_threads()) * kWordsEach * sizeof(uint64_t) / best;
}

int run(int32_t most) {
  std::vector<AlignedBuffer<uint64_t>> buffers;
  std::printf("[");
  for (int32_t threads = 1; threads <= most; ++threads) {
    buffers.emplace_back(kWordsEach);
    ThreadPool pool(threads);
    std::printf("%s\n  {\"threads\": %d, \"barrier_ns\": %.1f, \"call_awake_ns\": %.1f, \"call_asleep_ns\": %.1f, ",
                threads == 1 ? "" : ",", threads, barrier_ns(pool), awake_ns(pool), asleep_ns(pool));
    std::printf("\"read_gbs\": %.2f}", read_gbs(pool, buffers));
  }
  std::printf("\n]\n");
  return 0;
}

}  // namespace
}  // namespace secateur::bench

int main(int argc, char** argv) {
  const int32_t most = argc > 1 ? std::atoi(argv[1]) : static_cast<int32_t>(std::thread::hardware_concurrency());
  if (most < 1 || most > 64) {
    std::fprintf(stderr, "secateur_thread_bench: give a number of threads from 1 to 64.\n");
    return 2;
  }
  return secateur::bench::run(most);
}
