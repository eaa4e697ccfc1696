// Whether a process was forked: threads live only in the process that started them.
#pragma once
#include <cstdint>

namespace secateur {

// Changes in a child. Unlike a process's id it never comes back to what an ancestor had.
uint64_t fork_depth();

}  // namespace secateur
