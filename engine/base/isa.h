// Instruction sets: what the CPU has, what SECATEUR_ISA forces, which kernels one can run.
#pragma once
#include <string>
#include <vector>

namespace secateur {

enum class Isa { kReference, kAvx2, kAvxVnni, kAvx512, kAvx512Vnni, kNeonDot };
using enum Isa;

const char* isa_name(Isa isa);

// Sets this CPU and operating system can run, best first; kReference is always last.
std::vector<Isa> available_isas();

// The set of that name ("" or nullptr: SECATEUR_ISA, else the best). Throws std::invalid_argument when the name
// is unknown or the CPU lacks the set.
Isa resolve_isa(const char* name);

// Whether a kernel written for `kernel` runs where `chosen` was chosen.
bool isa_includes(Isa chosen, Isa kernel);

// Whether AVX512_BF16's vdpbf16ps is there and adds its two products one after the other, the high one first: the
// order in which all other kernels add (kernels/product_bf16.h). It is beside the sets: SECATEUR_ISA does not name it.
bool has_bf16();

// Names of the CPU features that matter here, and the CPU's brand string.
std::vector<std::string> cpu_features();
std::string cpu_brand();

}  // namespace secateur
