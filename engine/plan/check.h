// What the plan's builders ask of their input. Thrown while a plan is built, never later.
#pragma once
#include <cmath>
#include <stdexcept>
#include <string>

namespace secateur {

inline void check(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

inline void check_scale(float scale, const std::string& what) {
  check(std::isfinite(scale) && scale > 0, what + " must be finite and positive");
}

}  // namespace secateur
