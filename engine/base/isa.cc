#include "base/isa.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#define SECATEUR_X86 1
#endif

namespace secateur {
namespace {

struct Features {
  bool avx2 = false, fma = false, avxvnni = false, avx512 = false, avx512vnni = false, avx512bf16 = false,
       neondot = false;
  std::string brand = "unknown";
};

#ifdef SECATEUR_X86
uint64_t read_xcr0() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// 1 + 2^-24 + 2^-24 is 1 only where each sum is rounded, 1 - 1 + 2^-30 is 2^-30 only where the high half comes first.
bool adds_in_order() {
#ifdef SECATEUR_EMULATE_AVX512
  return true;
#else
  alignas(16) float sums[4] = {1.0f, 1.0f, 0.0f, 0.0f};
  alignas(16) const uint32_t tokens[4] = {0x3f803f80u, 0x3f803f80u, 0, 0};  // 1 in each half
  alignas(16) const uint32_t weights[4] = {0x33803380u, 0xbf803080u, 0, 0};
  asm("vmovaps %0, %%xmm0\n\tvmovaps %1, %%xmm1\n\tvdpbf16ps %2, %%xmm1, %%xmm0\n\tvmovaps %%xmm0, %0"
      : "+m"(sums)
      : "m"(tokens), "m"(weights)
      : "xmm0", "xmm1");
  return sums[0] == 1.0f && sums[1] == 0x1p-30f;
#endif
}

Features detect() {
  Features found;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_max(0x80000000u, nullptr) >= 0x80000004u) {
    char text[49] = {};
    for (uint32_t i = 0; i < 3; ++i) {
      __get_cpuid(0x80000002u + i, &a, &b, &c, &d);
      const uint32_t words[4] = {a, b, c, d};
      std::memcpy(text + 16 * i, words, 16);
    }
    found.brand = text;
    found.brand.erase(found.brand.find_last_not_of(" \0") + 1);
  }
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool osxsave = (c >> 27) & 1, avx = (c >> 28) & 1, fma = (c >> 12) & 1;
  if (!osxsave || !avx) return found;
  const uint64_t xcr0 = read_xcr0();
  const bool os_ymm = (xcr0 & 0x6) == 0x6, os_zmm = (xcr0 & 0xe6) == 0xe6;
  if (!os_ymm || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  found.fma = fma;
  found.avx2 = ((b >> 5) & 1) && fma;
  const bool f512 = ((b >> 16) & 1) && ((b >> 17) & 1) && ((b >> 30) & 1) && ((b >> 31) & 1);  // F DQ BW VL
  found.avx512 = f512 && os_zmm && found.avx2;
  found.avx512vnni = found.avx512 && ((c >> 11) & 1);
  const uint32_t max_subleaf = a;
  if (max_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    found.avxvnni = found.avx2 && ((a >> 4) & 1);
    found.avx512bf16 = found.avx512 && ((a >> 5) & 1);
  }
#ifdef SECATEUR_EMULATE_AVX512
  found.avx512 = found.avx512vnni = found.avx512bf16 = true;  // the kernels are compiled to plain code (a test build)
#endif
  return found;
}
#else
bool adds_in_order() { return false; }
Features detect() { return {}; }
#endif

const Features& features() {
  static const Features found = detect();
  return found;
}

bool cpu_has(Isa isa) {
  const Features& f = features();
  switch (isa) {
    case kReference:
      return true;
    case kAvx2:
      return f.avx2;
    case kAvxVnni:
      return f.avxvnni;
    case kAvx512:
      return f.avx512;
    case kAvx512Vnni:
      return f.avx512vnni;
    case kNeonDot:
      return f.neondot;
  }
  return false;
}

constexpr Isa kBestFirst[] = {kAvx512Vnni, kAvx512, kAvxVnni, kAvx2, kNeonDot, kReference};

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case kReference:
      return "reference";
    case kAvx2:
      return "avx2";
    case kAvxVnni:
      return "avxvnni";
    case kAvx512:
      return "avx512";
    case kAvx512Vnni:
      return "avx512vnni";
    case kNeonDot:
      return "neondot";
  }
  return "unknown";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> found;
  for (const Isa isa : kBestFirst)
    if (cpu_has(isa)) found.push_back(isa);
  return found;
}

Isa resolve_isa(const char* name) {
  if (name == nullptr || *name == '\0') name = std::getenv("SECATEUR_ISA");
  const std::vector<Isa> available = available_isas();
  if (name == nullptr || *name == '\0') return available.front();
  std::string allowed;
  for (const Isa isa : available) allowed += (allowed.empty() ? "" : ", ") + std::string(isa_name(isa));
  for (const Isa isa : kBestFirst) {
    if (std::strcmp(name, isa_name(isa)) != 0) continue;
    if (cpu_has(isa)) return isa;
    throw std::invalid_argument("this CPU has no " + std::string(name) + "; it can run: " + allowed);
  }
  throw std::invalid_argument("unknown instruction set '" + std::string(name) + "'; this CPU can run: " + allowed);
}

bool isa_includes(Isa chosen, Isa kernel) {
  if (kernel == chosen || kernel == kReference) return true;
  switch (chosen) {
    case kAvx512Vnni:
      return kernel == kAvx512 || kernel == kAvx2;
    case kAvx512:
      return kernel == kAvx2;
    case kAvxVnni:
      return kernel == kAvx2;
    default:
      return false;
  }
}

bool has_bf16() {
  static const bool found = features().avx512bf16 && adds_in_order();
  return found;
}

std::vector<std::string> cpu_features() {
  const Features& f = features();
  std::vector<std::string> names;
  const auto add = [&](bool has, const char* name) {
    if (has) names.emplace_back(name);
  };
  add(f.avx2, "avx2");
  add(f.fma, "fma");
  add(f.avxvnni, "avxvnni");
  add(f.avx512, "avx512");
  add(f.avx512vnni, "avx512vnni");
  add(f.avx512bf16, "avx512bf16");
  add(f.neondot, "neondot");
  return names;
}

std::string cpu_brand() { return features().brand; }

}  // namespace secateur
