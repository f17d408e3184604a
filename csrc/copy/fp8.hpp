// The lossy cast of KV: 16-bit floats to fp8 (E4M3: 4 bits of exponent, 3 of mantissa, no infinity)
// with one power of two per run, and back.
//
// A power of two and not any number: to scale by it rounds nothing, so that the only rounding is
// the one to 3 bits of mantissa, and a value that needs no more of them comes back as it was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <vector>

namespace penstock {

/// What an object's elements are before they are cast, and again afterwards.
enum class HalfKind : std::uint8_t { kBfloat16, kFloat16 };

/// Theirs: sizes that do not belong together; nothing was written.
class CastRefused : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// Bytes of a cast object: one int16 exponent per run, then one byte per element.
[[nodiscard]] constexpr std::uint64_t fp8_cast_bytes(std::uint64_t elements, std::uint64_t runs) {
  return runs * sizeof(std::int16_t) + elements;
}

/// Casts `object`, which is `runs` runs of equally many elements, into `cast`.
///
/// Element x of a run becomes round(x / 2^e), to nearest, ties to even, with the least e that keeps
/// the run's greatest magnitude within 448. Returns the CRC-64/NVME of each run as it will be once
/// restored; nothing for an object with infinities or NaNs, or with magnitudes that would be
/// rounded beyond the greatest number of their kind: `cast` means nothing then. Throws CastRefused.
[[nodiscard]] std::optional<std::vector<std::uint64_t>> fp8_cast(std::span<const std::byte> object,
                                                                 std::size_t runs, HalfKind kind,
                                                                 std::span<std::byte> cast);

/// The inverse: exact, as every fp8 number times its 2^e is a number of `kind`. What was not made
/// by `fp8_cast` gives numbers that mean nothing, and no more harm. Throws CastRefused.
void fp8_restore(std::span<const std::byte> cast, std::size_t runs, HalfKind kind,
                 std::span<std::byte> object);

}  // namespace penstock
