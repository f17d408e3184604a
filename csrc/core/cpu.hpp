// What this CPU can do, asked at run time, so that one build serves every x86-64 machine.
#pragma once

namespace penstock {

/// Instruction sets that have code of their own. All false on other architectures.
struct CpuFeatures {
  bool pclmul = false;      // PCLMULQDQ with SSE4.1: 16 bytes at a time
  bool vpclmul512 = false;  // VPCLMULQDQ with AVX-512 F, BW, DQ, VL: 64 bytes at a time
  bool avx2 = false;        // arithmetic on 32 bytes at a time
};

/// Includes whether the operating system saves the wide registers.
[[nodiscard]] inline CpuFeatures cpu_features() noexcept {
#if defined(__x86_64__)
  return {
      .pclmul = __builtin_cpu_supports("pclmul") != 0 && __builtin_cpu_supports("sse4.1") != 0,
      .vpclmul512 =
          __builtin_cpu_supports("vpclmulqdq") != 0 && __builtin_cpu_supports("pclmul") != 0 &&
          __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
          __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0,
      .avx2 = __builtin_cpu_supports("avx2") != 0,
  };
#else
  return {};
#endif
}

}  // namespace penstock

// Functions are compiled for an instruction set one by one, never whole files: code shared with
// other files must not come out of the linker compiled for a CPU that may not be there.
#define KV_TARGET_PCLMUL [[gnu::target("sse4.1,pclmul")]]
#define KV_TARGET_VPCLMUL512 \
  [[gnu::target("sse4.1,pclmul,avx512f,avx512bw,avx512dq,avx512vl,vpclmulqdq")]]
#define KV_TARGET_AVX2 [[gnu::target("avx2")]]
