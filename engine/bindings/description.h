// From the dicts of numpy arrays that describe a model to the plan's records.
#pragma once
#include <nanobind/nanobind.h>

#include "plan/description.h"

namespace secateur {

// A description whose arrays belong to Python.
struct ReadDescription {
  PlanDescription records;
  nanobind::list in_place;  // the arrays that a packed model goes on to read
};

// Throws std::invalid_argument where an entry is missing, unknown or of a wrong type; what the values say is checked
// where they are packed.
ReadDescription read_description(const nanobind::dict& description);

}  // namespace secateur
