// Arithmetic modulo the CRC-64/NVME polynomial, usable at compile time.
//
// A residue is held reflected, as the CRC holds it: bit i of the word is the coefficient of
// x^(63-i). So the word 1 << 63 is the polynomial 1, and the lowest bit is x^63. Every constant of
// the vector code is computed from here, so that none of them has to be believed.
#pragma once

#include <cstdint>

namespace penstock::digest {

/// 0xAD93D23594C93659 reflected; the term x^64 is implied.
inline constexpr std::uint64_t kPolynomial = 0x9A6C9329AC4BC9B5;

/// The register before the first byte, and what is xored to it after the last one.
inline constexpr std::uint64_t kAllOnes = ~std::uint64_t{0};

inline constexpr std::uint64_t kOne = std::uint64_t{1} << 63;

/// a * x.
constexpr std::uint64_t times_x(std::uint64_t a) noexcept {
  return (a >> 1) ^ ((a & 1) != 0 ? kPolynomial : 0);
}

/// a * b.
constexpr std::uint64_t multiply(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t product = 0;
  for (int power = 0; power < 64; ++power) {
    product ^= (a & kOne) != 0 ? b : 0;
    a <<= 1;
    b = times_x(b);
  }
  return product;
}

/// a ^ n by squaring.
constexpr std::uint64_t power(std::uint64_t a, std::uint64_t n) noexcept {
  std::uint64_t result = kOne;
  for (; n != 0; n >>= 1) {
    result = (n & 1) != 0 ? multiply(result, a) : result;
    a = multiply(a, a);
  }
  return result;
}

/// x ^ n.
constexpr std::uint64_t x_power(std::uint64_t n) noexcept {
  return power(times_x(kOne), n);
}

/// Multipliers that move a 128-bit register `bits` ahead: for its low half, then its high half.
/// One power of x less than that, for a reason of the registers' (digest_fold.hpp).
struct FoldBy {
  std::uint64_t low;
  std::uint64_t high;
};
constexpr FoldBy fold_by(std::uint64_t bits) noexcept {
  return {.low = x_power(bits + 64 - 1), .high = x_power(bits - 1)};
}

/// 1 / x. The polynomial P has the terms 1 and x^64, so (P + 1) / x is a polynomial and x times it
/// is 1 modulo P. Dividing is a shift to the left; x^64 / x is the lowest bit.
inline constexpr std::uint64_t kInverseX = (kPolynomial << 1) | 1;
static_assert(multiply(kInverseX, times_x(kOne)) == kOne);

/// The inverse of P as a power series: kSeriesInverse * P = 1 modulo z^64, where z^i is bit i and P
/// is reflected with all its 65 bits. A quotient by P is one carry-less product with it (Barrett's
/// reduction, exact here). Newton's step over GF(2) is i := i * i * P and doubles the good bits.
constexpr std::uint64_t series_multiply(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t product = 0;
  for (int i = 0; i < 64; ++i) {
    product ^= ((a >> i) & 1) != 0 ? b << i : 0;
  }
  return product;
}
inline constexpr std::uint64_t kSeriesPolynomial = (kPolynomial << 1) | 1;
constexpr std::uint64_t series_inverse() noexcept {
  std::uint64_t inverse = 1;
  for (int good_bits = 1; good_bits < 64; good_bits *= 2) {
    inverse = series_multiply(series_multiply(inverse, inverse), kSeriesPolynomial);
  }
  return inverse;
}
inline constexpr std::uint64_t kSeriesInverse = series_inverse();
static_assert(series_multiply(kSeriesInverse, kSeriesPolynomial) == 1);

}  // namespace penstock::digest
