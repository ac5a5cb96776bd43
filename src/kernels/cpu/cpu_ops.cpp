#include "kernels/cpu_ops.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <span>

#include "base/error.h"
#include "kernels/cpu/attention_ops.h"
#include "kernels/cpu/gemm.h"

namespace fathom {
namespace {

// Features that some compilers' __builtin_cpu_supports does not know by name. Whether the system
// saves the registers they need follows from the features that are checked with them.
bool has_avx512_bf16() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
#else
  return false;
#endif
}

bool has_f16c() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
#else
  return false;
#endif
}

bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() &&
         __builtin_cpu_supports("bmi2");
#else
  return false;
#endif
}

// What every server processor with AVX-512 has, from Skylake on.
bool has_avx512_base() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && has_avx2();
#else
  return false;
#endif
}

bool has_avx512() {
#if defined(__x86_64__)
  return has_avx512_base() && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("avx512vnni") && has_avx512_bf16();
#else
  return false;
#endif
}

// Tiles and bf16 products of them. A process must ask Linux for the room in which their registers
// are kept (8 KiB a thread); one that may not is answered no, as are all by Linux before 5.16.
bool has_amx() {
#if defined(__x86_64__)
  constexpr int kAskForState = 0x1023, kTileState = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool bf16 = d >> 22 & 1, tiles = d >> 24 & 1;
  return bf16 && tiles && syscall(SYS_arch_prctl, kAskForState, kTileState) == 0;
#else
  return false;
#endif
}

constexpr CpuKernels kTable[] = {
#if defined(__x86_64__)
    {"amx",
     "AMX with BF16 (Intel Sapphire Rapids and later), and Linux's leave to use its registers",
     has_amx,
     [](Numerics n, const Workload& w, ThreadPool& p) -> std::unique_ptr<Ops> {
       return std::make_unique<AttentionOps>(n, w, p, kGemmAmx, kAttentionAmx);
     }},
    {"avx512", "AVX-512 with VBMI, VNNI and BF16 (AMD Zen 4, Intel Sapphire Rapids and later)",
     has_avx512,
     [](Numerics n, const Workload& w, ThreadPool& p) -> std::unique_ptr<Ops> {
       return std::make_unique<AttentionOps>(n, w, p, kGemmAvx512, kAttentionAvx512);
     }},
    {"avx512f32", "AVX-512 F, BW, DQ and VL (Intel Skylake-SP, Cascade Lake, Ice Lake)",
     has_avx512_base,
     [](Numerics n, const Workload& w, ThreadPool& p) -> std::unique_ptr<Ops> {
       return std::make_unique<AttentionOps>(n, w, p, kGemmAvx512F32, kAttentionAvx512F32);
     },
     true},
    {"avx2", "AVX2, FMA, F16C and BMI2", has_avx2,
     [](Numerics n, const Workload& w, ThreadPool& p) -> std::unique_ptr<Ops> {
       return std::make_unique<AttentionOps>(n, w, p, kGemmAvx2, kAttentionAvx2);
     },
     true},
#endif
    {"reference", "any processor", [] { return true; }, make_reference_ops},
};

}  // namespace

std::span<const CpuKernels> cpu_kernels() { return kTable; }

const CpuKernels& pick_cpu_kernels(std::string_view forced) {
  for (const CpuKernels& k : kTable) {
    if (forced.empty() ? !k.usable() : k.name != forced) continue;
    if (!k.usable()) fail("kernels {} need {}, which this machine lacks", k.name, k.needs);
    return k;
  }
  std::string names;
  for (const CpuKernels& k : kTable) names += fmt::format(" {}", k.name);
  fail("unknown kernels '{}'; there are:{}", forced, names);
}

}  // namespace fathom
