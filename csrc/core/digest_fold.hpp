// Carry-less folding of CRC-64/NVME, shared by the digest and by the fused copy.
//
// Method: Gopal, Ozturk et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
// Instruction" (Intel, 2009). The message so far is held as four registers that follow each other;
// the oldest is multiplied by x^(bits of four registers) and added to the next data, which makes
// it the newest. All that counts is congruence modulo P, so nothing is reduced until the end.
//
// Reflected arithmetic: a 128-bit register is a polynomial with bit i standing for x^(127-i); its
// low half holds the higher powers. The carry-less product of two reflected 64-bit words has 127
// bits, so read as a register it is a * b * x; every multiplier below has one power of x less for
// that.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "core/cpu.hpp"
#include "core/digest_math.hpp"

namespace penstock::digest {

KV_TARGET_PCLMUL inline __m128i make128(FoldBy by) noexcept {
  return _mm_set_epi64x(static_cast<long long>(by.high), static_cast<long long>(by.low));
}

/// register * x^bits + data.
KV_TARGET_PCLMUL inline __m128i fold128(__m128i reg, __m128i by, __m128i data) noexcept {
  const __m128i low = _mm_clmulepi64_si128(reg, by, 0x00);
  const __m128i high = _mm_clmulepi64_si128(reg, by, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), data);
}

/// A 128-bit polynomial modulo P; the remainder is in the high half of what is returned.
KV_TARGET_PCLMUL inline __m128i remainder128(__m128i value) noexcept {
  const __m128i barrett = make128({.low = kSeriesInverse, .high = kSeriesPolynomial});
  const __m128i quotient = _mm_clmulepi64_si128(value, barrett, 0x00);
  // P has 65 bits: the 65th, its constant term, is the shifted quotient.
  const __m128i multiple =
      _mm_xor_si128(_mm_clmulepi64_si128(quotient, barrett, 0x10), _mm_slli_si128(quotient, 8));
  return _mm_xor_si128(value, multiple);
}

/// The CRC state after a message that is congruent to `reg`: reg * x^64 modulo P.
KV_TARGET_PCLMUL inline std::uint64_t finish128(__m128i reg) noexcept {
  const __m128i by = make128({.low = x_power(128 - 1), .high = 0});
  // The low half moves up by 128 bits, which is reduced once; the high half by 64, which fits.
  const __m128i value = _mm_xor_si128(_mm_clmulepi64_si128(reg, by, 0x00), _mm_srli_si128(reg, 8));
  return static_cast<std::uint64_t>(_mm_extract_epi64(remainder128(value), 1));
}

/// The register that acts as the CRC state `state` does on what follows. The state is added to the
/// next 64 bits of the message, so it stands for itself divided by x^64.
KV_TARGET_PCLMUL inline __m128i begin128(std::uint64_t state) noexcept {
  constexpr std::uint64_t kBy = power(kInverseX, 64 + 1);
  return _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<long long>(state)),
                              _mm_cvtsi64_si128(static_cast<long long>(kBy)), 0x00);
}

/// Four 128-bit registers that follow each other, oldest first: enough to hide the latency of the
/// product; eight were no faster.
struct Lanes128 {
  static constexpr std::size_t kCount = 4;
  __m128i lane[kCount];
};

KV_TARGET_PCLMUL inline Lanes128 begin_lanes128(std::uint64_t state) noexcept {
  const __m128i zero = _mm_setzero_si128();
  return {{zero, zero, zero, begin128(state)}};
}

KV_TARGET_PCLMUL inline std::uint64_t finish_lanes128(const Lanes128& lanes) noexcept {
  const __m128i by = make128(fold_by(128));
  __m128i sum = lanes.lane[0];
  for (std::size_t i = 1; i < Lanes128::kCount; ++i) {
    sum = fold128(sum, by, lanes.lane[i]);
  }
  return finish128(sum);
}

/// Four 512-bit registers, oldest first; each is four 128-bit registers in the order of memory.
struct Lanes512 {
  static constexpr std::size_t kCount = 4;
  __m512i lane[kCount];
};

KV_TARGET_VPCLMUL512 inline __m512i make512(FoldBy by) noexcept {
  const auto low = static_cast<long long>(by.low);
  const auto high = static_cast<long long>(by.high);
  return _mm512_set_epi64(high, low, high, low, high, low, high, low);
}

/// register * x^bits + data, in each of the four 128-bit parts.
KV_TARGET_VPCLMUL512 inline __m512i fold512(__m512i reg, __m512i by, __m512i data) noexcept {
  const __m512i low = _mm512_clmulepi64_epi128(reg, by, 0x00);
  const __m512i high = _mm512_clmulepi64_epi128(reg, by, 0x11);
  constexpr int kXorOfThree = 0x96;
  return _mm512_ternarylogic_epi64(low, high, data, kXorOfThree);
}

KV_TARGET_VPCLMUL512 inline Lanes512 begin_lanes512(std::uint64_t state) noexcept {
  const __m512i zero = _mm512_setzero_si512();
  return {{zero, zero, zero, _mm512_inserti64x2(zero, begin128(state), 3)}};
}

KV_TARGET_VPCLMUL512 inline std::uint64_t finish_lanes512(const Lanes512& lanes) noexcept {
  const __m512i by512 = make512(fold_by(512));
  __m512i sum = lanes.lane[0];
  for (std::size_t i = 1; i < Lanes512::kCount; ++i) {
    sum = fold512(sum, by512, lanes.lane[i]);
  }
  return finish_lanes128({{_mm512_extracti64x2_epi64(sum, 0), _mm512_extracti64x2_epi64(sum, 1),
                           _mm512_extracti64x2_epi64(sum, 2), _mm512_extracti64x2_epi64(sum, 3)}});
}

}  // namespace penstock::digest

#endif
