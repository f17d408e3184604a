// The fp8 cast against its definition: the nearest of all fp8 numbers, by looking at each of them.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"
#include "copy/fp8.hpp"
#include "core/digest.hpp"

namespace {

using penstock::HalfKind;

constexpr HalfKind kKinds[] = {HalfKind::kBfloat16, HalfKind::kFloat16};

double value_of(std::uint16_t bits, HalfKind kind) {
  const bool is_wide = kind == HalfKind::kBfloat16;
  const int mantissa_bits = is_wide ? 7 : 10;
  const int bias = is_wide ? 127 : 15;
  const int biased = (bits & 0x7fff) >> mantissa_bits;
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double magnitude =
      biased == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                  : std::ldexp(mantissa + (1 << mantissa_bits), biased - bias - mantissa_bits);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

double value_of_fp8(unsigned code) {
  const int biased = static_cast<int>(code >> 3 & 15U);
  const int mantissa = static_cast<int>(code & 7U);
  const double magnitude =
      biased == 0 ? std::ldexp(mantissa, -9) : std::ldexp(mantissa + 8, biased - 10);
  return (code & 0x80U) != 0 ? -magnitude : magnitude;
}

/// The code of the nearest fp8 number; of two as near, the even one.
unsigned nearest(double value) {
  unsigned best = 0;
  for (unsigned code = 1; code < 0x7f; ++code) {
    const double now = std::fabs(value_of_fp8(code) - std::fabs(value));
    const double before = std::fabs(value_of_fp8(best) - std::fabs(value));
    if (now < before || (now == before && code % 2 == 0)) {
      best = code;
    }
  }
  return best | (std::signbit(value) ? 0x80U : 0U);
}

bool is_finite(std::uint16_t bits, HalfKind kind) {
  return (bits & 0x7fff) < (kind == HalfKind::kBfloat16 ? 0x7f80 : 0x7c00);
}

std::span<const std::byte> bytes_of(const std::vector<std::uint16_t>& elements) {
  return std::as_bytes(std::span(elements));
}

struct Cast {
  std::vector<std::byte> bytes;
  std::vector<std::uint64_t> digests;

  [[nodiscard]] int exponent(std::size_t run) const {
    std::int16_t exponent = 0;
    std::memcpy(&exponent, bytes.data() + run * sizeof(exponent), sizeof(exponent));
    return exponent;
  }
};

Cast cast_of(const std::vector<std::uint16_t>& elements, std::size_t runs, HalfKind kind) {
  std::vector<std::byte> cast(penstock::fp8_cast_bytes(elements.size(), runs));
  const auto digests = penstock::fp8_cast(bytes_of(elements), runs, kind, cast);
  CHECK(digests.has_value());
  return {cast, *digests};
}

std::vector<std::uint16_t> restored(const Cast& cast, std::size_t count, HalfKind kind) {
  std::vector<std::uint16_t> elements(count);
  penstock::fp8_restore(cast.bytes, cast.digests.size(), kind,
                        std::as_writable_bytes(std::span(elements)));
  return elements;
}

/// A run with this greatest magnitude and everything below it.
std::vector<std::uint16_t> all_up_to(std::uint16_t greatest) {
  std::vector<std::uint16_t> elements;
  for (unsigned bits = 0; bits <= greatest; ++bits) {
    elements.push_back(static_cast<std::uint16_t>(bits));
    elements.push_back(static_cast<std::uint16_t>(bits | 0x8000U));
  }
  return elements;
}

}  // namespace

TEST_CASE(every_number_becomes_the_nearest_fp8) {
  for (const HalfKind kind : kKinds) {
    for (const double top : {448.0, 449.0, 1.0, 3.5, 0.011, 30000.0}) {
      std::uint16_t greatest = 0;
      while (value_of(greatest + 1, kind) <= top) {
        ++greatest;
      }
      const auto elements = all_up_to(greatest);
      const Cast cast = cast_of(elements, 1, kind);
      const int exponent = cast.exponent(0);
      CHECK(std::ldexp(value_of(greatest, kind), -exponent) <= 448.0);
      const bool is_least = kind == HalfKind::kFloat16 && exponent == -15;
      CHECK(is_least || std::ldexp(value_of(greatest, kind), -exponent) > 224.0);
      for (std::size_t at = 0; at < elements.size(); at += kind == HalfKind::kBfloat16 ? 7 : 11) {
        const double scaled = std::ldexp(value_of(elements[at], kind), -exponent);
        CHECK_EQ(std::to_integer<unsigned>(cast.bytes[2 + at]), nearest(scaled));
      }
    }
  }
}

TEST_CASE(what_is_restored_is_the_fp8_number_exactly_and_has_the_digests_that_were_told) {
  std::mt19937 random(3);
  for (const HalfKind kind : kKinds) {
    for (const std::size_t count : {1U, 2U, 2047U, 2048U, 2049U, 10'000U}) {
      constexpr std::size_t kRuns = 3;
      std::vector<std::uint16_t> elements(count * kRuns);
      for (auto& one : elements) {
        do {
          one = static_cast<std::uint16_t>(random());
        } while (std::fabs(value_of(one, kind)) > 1000.0 || !is_finite(one, kind));
      }
      const Cast cast = cast_of(elements, kRuns, kind);
      const auto again = restored(cast, elements.size(), kind);
      for (std::size_t at = 0; at < again.size(); ++at) {
        const auto code = std::to_integer<unsigned>(cast.bytes[kRuns * 2 + at]);
        CHECK_EQ(value_of(again[at], kind),
                 std::ldexp(value_of_fp8(code), cast.exponent(at / count)));
      }
      for (std::size_t run = 0; run < kRuns; ++run) {
        const auto part = bytes_of(again).subspan(run * count * 2, count * 2);
        CHECK_EQ(cast.digests[run], penstock::crc64(part));
      }
      // Nothing more is lost by doing it again.
      CHECK(restored(cast_of(again, kRuns, kind), again.size(), kind) == again);
    }
  }
}

TEST_CASE(numbers_at_the_ends_of_the_range) {
  for (const HalfKind kind : kKinds) {
    const auto zeros = cast_of({0, 0x8000}, 1, kind);
    CHECK(restored(zeros, 2, kind) == (std::vector<std::uint16_t>{0, 0x8000}));
    // The least numbers there are come back as they were.
    const std::vector<std::uint16_t> least{1, 2, 3, 0x8001, 8};
    CHECK(restored(cast_of(least, 1, kind), least.size(), kind) == least);
    // The greatest that is not rounded beyond the kind, and the next one.
    const std::uint16_t greatest = kind == HalfKind::kBfloat16 ? 0x7f77 : 0x7bbf;
    const auto top = restored(cast_of({greatest}, 1, kind), 1, kind);
    CHECK(is_finite(top[0], kind));
    for (const unsigned refused : {greatest + 1U, 0x7f80U, 0x7fffU, 0xff80U}) {
      std::vector<std::byte> cast(penstock::fp8_cast_bytes(2, 1));
      const std::vector<std::uint16_t> elements{1, static_cast<std::uint16_t>(refused)};
      CHECK(!penstock::fp8_cast(bytes_of(elements), 1, kind, cast));
    }
  }
}

TEST_CASE(sizes_that_do_not_belong_together_are_refused) {
  std::vector<std::byte> object(24);
  std::vector<std::byte> cast(64);
  const auto refused = [&](std::size_t object_bytes, std::size_t runs, std::size_t cast_bytes) {
    try {
      (void)penstock::fp8_cast(std::span(object).first(object_bytes), runs, HalfKind::kFloat16,
                               std::span(cast).first(cast_bytes));
    } catch (const penstock::CastRefused&) {
      return true;
    }
    return false;
  };
  CHECK(!refused(24, 3, 18));
  CHECK(refused(24, 0, 12));
  CHECK(refused(24, 5, 22));
  CHECK(refused(23, 1, 13));
  CHECK(refused(24, 3, 17));
  CHECK(refused(24, 3, 19));
}

TEST_CASE(any_bytes_can_be_restored_without_harm) {
  std::mt19937 random(9);
  for (const HalfKind kind : kKinds) {
    for (int round = 0; round < 200; ++round) {
      std::vector<std::byte> cast(2 + 256);
      for (auto& one : cast) {
        one = static_cast<std::byte>(random());
      }
      std::vector<std::byte> object(512);
      penstock::fp8_restore(cast, 1, kind, object);
    }
  }
}

CHECK_MAIN()
