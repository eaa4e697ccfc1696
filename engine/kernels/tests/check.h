// What the kernel tests share: random inputs, a verdict for each kernel.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/isa.h"

namespace secateur::tests {

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  // Uniform in low .. high, both included.
  int32_t integer(int32_t low, int32_t high) {
    const int64_t count = static_cast<int64_t>(high) - low + 1;
    return static_cast<int32_t>(low + static_cast<int64_t>(engine_()) % count);
  }
  float uniform(float low, float high) { return low + (high - low) * (static_cast<float>(engine_() >> 8) * 0x1p-24f); }
  // Bell-shaped with standard deviation 1: a sum of uniform numbers.
  float normal() {
    const float sum = uniform(-1.0f, 1.0f) + uniform(-1.0f, 1.0f) + uniform(-1.0f, 1.0f) + uniform(-1.0f, 1.0f);
    return sum * 0.8660254f;
  }
  template <class T>
  void fill(AlignedBuffer<T>& buffer, int32_t low, int32_t high) {
    for (size_t i = 0; i < buffer.size(); ++i) buffer[i] = static_cast<T>(integer(low, high));
  }

 private:
  std::mt19937 engine_;
};

template <class T>
AlignedBuffer<T> copy(const AlignedBuffer<T>& from) {
  AlignedBuffer<T> to(from.size());
  std::memcpy(static_cast<void*>(to.data()), from.data(), from.bytes());
  return to;
}

// Collects what one kernel does wrong; only the first mistake is kept in words. Used through EXPECT.
class Check {
 public:
  bool failed() const { return failures_ > 0; }
  int64_t failures() const { return failures_; }
  const std::string& first() const { return first_; }

  __attribute__((format(printf, 2, 3))) void fail(const char* format, ...) {
    if (failures_++ > 0) return;
    char text[512];
    std::va_list args;
    va_start(args, format);
    std::vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    first_ = text;
  }

 private:
  int64_t failures_ = 0;
  std::string first_;
};

// The words are formed only when `right` is false: there are millions of comparisons.
#define EXPECT(check, right, ...)            \
  do {                                       \
    if (!(right)) (check).fail(__VA_ARGS__); \
  } while (false)

// Prints a line for each kernel: `ok name`, `FAILED name: why`, or `skip name: why` where the CPU cannot run it.
class Report {
 public:
  explicit Report(std::string filter) : filter_(std::move(filter)), available_(available_isas()) {}

  // `lacks`: what the CPU lacks beside the set, if anything.
  template <class Body>
  void kernel(const char* name, Isa isa, Body body, const char* lacks = nullptr) {
    if (std::string(name).find(filter_) == std::string::npos) return;
    bool runnable = false;
    for (const Isa has : available_) runnable |= has == isa;
    if (!runnable || lacks != nullptr) {
      std::printf("skip %s: this CPU has no %s\n", name, runnable ? lacks : isa_name(isa));
      ++skipped_;
      return;
    }
    Check check;
    body(check);
    if (check.failed()) {
      std::printf("FAILED %s: %s (%lld wrong in all)\n", name, check.first().c_str(),
                  static_cast<long long>(check.failures()));
      ++failed_;
    } else {
      std::printf("ok %s\n", name);
      ++passed_;
    }
    std::fflush(stdout);
  }

  // Prints the closing line; the process's exit status.
  int finish() const {
    if (skipped_ > 0) std::printf("%d skipped\n", skipped_);
    std::printf("%d passed, %d failed\n", passed_, failed_);
    return failed_ > 0 || passed_ == 0 ? 1 : 0;
  }

 private:
  std::string filter_;
  std::vector<Isa> available_;
  int passed_ = 0, failed_ = 0, skipped_ = 0;
};

}  // namespace secateur::tests
