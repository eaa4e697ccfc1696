// What the plan's builders ask of their input. Thrown while a plan is built, never later.
#pragma once
#include <cmath>
#include <stdexcept>
#include <string>

namespace secateur {

[[noreturn]] inline void fail(const std::string& message) { throw std::invalid_argument(message); }

// Makes its message even when all is well: where a loop runs over weights or tokens, ask `if (...) fail(...)`.
inline void check(bool condition, const std::string& message) {
  if (!condition) fail(message);
}

inline bool is_scale(float scale) { return std::isfinite(scale) && scale > 0; }

inline void check_scale(float scale, const std::string& what) {
  check(is_scale(scale), what + " must be finite and positive");
}

}  // namespace secateur
