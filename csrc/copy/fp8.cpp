#include "copy/fp8.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "core/cpu.hpp"
#include "core/digest.hpp"

namespace penstock {
namespace {

constexpr std::size_t kStepElements = 2048;  // moved at a time: it stays in the nearest cache
constexpr float kMaxFp8 = 448.0F;            // 1.75 * 2^8

/// What tells the two kinds apart.
struct Kind {
  std::uint16_t infinity;     // bits of it; magnitudes from there on are no numbers
  std::uint16_t max_rounded;  // from this magnitude on, rounding to 3 bits overflows the kind
  int least_exponent;         // 2^-9, the step of fp8 near 0, times this is the kind's own step
};

constexpr Kind kKinds[] = {
    {.infinity = 0x7f80, .max_rounded = 0x7f78, .least_exponent = -124},  // bfloat16
    {.infinity = 0x7c00, .max_rounded = 0x7bc0, .least_exponent = -15},   // float16
};

const Kind& traits(HalfKind kind) {
  return kKinds[static_cast<std::size_t>(kind)];
}

/// A finite magnitude of the kind as a float: exact.
template <HalfKind kind>
[[gnu::always_inline]] inline float widened(std::uint32_t magnitude) {
  if constexpr (kind == HalfKind::kBfloat16) {
    return std::bit_cast<float>(magnitude << 16);
  }
  return std::bit_cast<float>(magnitude << 13) * 0x1p112F;  // the difference of the two biases
}

/// A float that is a number of the kind, as its bits.
std::uint16_t narrowed(float value, HalfKind kind) {
  const auto sign = std::bit_cast<std::uint32_t>(value) >> 16 & 0x8000U;
  if (kind == HalfKind::kBfloat16) {
    return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
  }
  const auto bits = std::bit_cast<std::uint32_t>(std::fabs(value) * 0x1p-112F);
  return static_cast<std::uint16_t>(sign | (bits >> 13 & 0x7fffU));
}

/// The nearest fp8 to a magnitude of at most 448, ties to even.
[[gnu::always_inline]] inline std::uint32_t rounded(float magnitude) {
  // From 2^-6 on: 20 of the 23 bits of the mantissa go, and the bias becomes 7.
  const auto bits = std::bit_cast<std::uint32_t>(magnitude);
  const std::uint32_t normal = ((bits + 0x7ffffU + (bits >> 20 & 1U)) >> 20) - (120U << 3);
  // Below, fp8 counts steps of 2^-9, and so do the floats from 2^14 on.
  const std::uint32_t small =
      std::bit_cast<std::uint32_t>(magnitude + 0x1p14F) - std::bit_cast<std::uint32_t>(0x1p14F);
  // A mask and no condition: compilers make a branch of that, and no vector code of the loop.
  const std::uint32_t is_small = 0U - std::uint32_t{bits < std::bit_cast<std::uint32_t>(0x1p-6F)};
  return (small & is_small) | (normal & ~is_small);
}

template <HalfKind kind>
[[gnu::always_inline]] inline void cast_step(const std::uint16_t* elements, std::size_t count,
                                             float factor, std::uint8_t* codes) {
  for (std::size_t at = 0; at < count; ++at) {
    const std::uint32_t element = elements[at];
    const std::uint32_t code = rounded(widened<kind>(element & 0x7fffU) * factor);
    codes[at] = static_cast<std::uint8_t>(code | (element >> 8 & 0x80U));
  }
}

[[gnu::always_inline]] inline std::uint16_t greatest_of(const std::uint16_t* elements,
                                                        std::size_t count) {
  std::uint16_t greatest = 0;
  for (std::size_t at = 0; at < count; ++at) {
    greatest = std::max(greatest, static_cast<std::uint16_t>(elements[at] & 0x7fffU));
  }
  return greatest;
}

/// One step by the widest instructions there are; the loops above, compiled for each of them.
struct Steps {
  void (*cast_bfloat16)(const std::uint16_t*, std::size_t, float, std::uint8_t*);
  void (*cast_float16)(const std::uint16_t*, std::size_t, float, std::uint8_t*);
  std::uint16_t (*greatest)(const std::uint16_t*, std::size_t);
};

constexpr Steps kPlain = {
    .cast_bfloat16 =
        [](const std::uint16_t* elements, std::size_t count, float factor, std::uint8_t* codes) {
          cast_step<HalfKind::kBfloat16>(elements, count, factor, codes);
        },
    .cast_float16 =
        [](const std::uint16_t* elements, std::size_t count, float factor, std::uint8_t* codes) {
          cast_step<HalfKind::kFloat16>(elements, count, factor, codes);
        },
    .greatest = [](const std::uint16_t* elements,
                   std::size_t count) { return greatest_of(elements, count); },
};

#if defined(__x86_64__)
KV_TARGET_AVX2 void cast_bfloat16_avx2(const std::uint16_t* elements, std::size_t count,
                                       float factor, std::uint8_t* codes) {
  cast_step<HalfKind::kBfloat16>(elements, count, factor, codes);
}

KV_TARGET_AVX2 void cast_float16_avx2(const std::uint16_t* elements, std::size_t count,
                                      float factor, std::uint8_t* codes) {
  cast_step<HalfKind::kFloat16>(elements, count, factor, codes);
}

KV_TARGET_AVX2 std::uint16_t greatest_avx2(const std::uint16_t* elements, std::size_t count) {
  return greatest_of(elements, count);
}
#endif

const Steps& steps() {
#if defined(__x86_64__)
  static constexpr Steps kWide = {cast_bfloat16_avx2, cast_float16_avx2, greatest_avx2};
  static const bool is_wide = cpu_features().avx2;
  return is_wide ? kWide : kPlain;
#else
  return kPlain;
#endif
}

/// The least e with greatest / 2^e <= 448, but none below what the kind can express.
int exponent_of(std::uint16_t greatest, HalfKind kind) {
  const float value = kind == HalfKind::kBfloat16 ? widened<HalfKind::kBfloat16>(greatest)
                                                  : widened<HalfKind::kFloat16>(greatest);
  int exponent = 0;
  const float mantissa =
      std::frexp(value, &exponent);  // in [0.5, 1): value = mantissa * 2^exponent
  if (mantissa == 0.0F) {
    return 0;
  }
  exponent -= 9;  // 448 is 0.875 * 2^9
  exponent += mantissa > kMaxFp8 / 512.0F ? 1 : 0;
  return std::max(exponent, traits(kind).least_exponent);
}

/// All fp8 numbers times 2^exponent, as bits of the kind, by their code.
std::array<std::uint16_t, 256> restored(int exponent, HalfKind kind) {
  std::array<std::uint16_t, 256> table{};
  for (unsigned code = 0; code < table.size(); ++code) {
    const int biased = static_cast<int>(code >> 3 & 15U);
    const auto mantissa = static_cast<float>(code & 7U);
    const float number = biased == 0 ? std::ldexp(mantissa, exponent - 9)
                                     : std::ldexp(mantissa + 8.0F, exponent + biased - 10);
    table[code] = narrowed((code & 0x80U) != 0 ? -number : number, kind);
  }
  return table;
}

std::size_t checked_run_elements(std::size_t object_bytes, std::size_t runs,
                                 std::size_t cast_bytes) {
  if (runs == 0 || object_bytes % (runs * sizeof(std::uint16_t)) != 0) {
    throw CastRefused(std::to_string(object_bytes) + " bytes are not " + std::to_string(runs) +
                      " runs of equally many 16-bit elements");
  }
  const std::size_t elements = object_bytes / sizeof(std::uint16_t);
  if (cast_bytes != fp8_cast_bytes(elements, runs)) {
    throw CastRefused("an object of " + std::to_string(object_bytes) + " bytes in " +
                      std::to_string(runs) + " runs is cast to " +
                      std::to_string(fp8_cast_bytes(elements, runs)) + " bytes, not " +
                      std::to_string(cast_bytes));
  }
  return elements / runs;
}

/// `count` codes, as elements of the table, into memory of any alignment.
void restore_step(const std::byte* codes, std::size_t count,
                  const std::array<std::uint16_t, 256>& table, std::byte* object) {
  for (std::size_t at = 0; at < count; ++at) {
    const std::uint16_t element = table[std::to_integer<std::size_t>(codes[at])];
    std::memcpy(object + at * sizeof(element), &element, sizeof(element));
  }
}

/// One run; false if it cannot be cast. `digest`: of what it will be once restored.
bool cast_run(const std::byte* run, std::size_t count, HalfKind kind, std::int16_t& exponent,
              std::byte* codes, std::uint64_t& digest) {
  const Steps& by = steps();
  alignas(64) std::array<std::uint16_t, kStepElements> elements;
  std::uint16_t greatest = 0;
  for (std::size_t at = 0; at < count; at += kStepElements) {
    const std::size_t some = std::min(kStepElements, count - at);
    std::memcpy(elements.data(), run + at * sizeof(std::uint16_t), some * sizeof(std::uint16_t));
    greatest = std::max(greatest, by.greatest(elements.data(), some));
  }
  if (greatest >= traits(kind).max_rounded) {
    return false;
  }
  exponent = static_cast<std::int16_t>(exponent_of(greatest, kind));
  const float factor = std::ldexp(1.0F, -exponent);
  const auto table = restored(exponent, kind);
  const auto cast = kind == HalfKind::kBfloat16 ? by.cast_bfloat16 : by.cast_float16;
  digest = 0;
  for (std::size_t at = 0; at < count; at += kStepElements) {
    const std::size_t some = std::min(kStepElements, count - at);
    std::memcpy(elements.data(), run + at * sizeof(std::uint16_t), some * sizeof(std::uint16_t));
    cast(elements.data(), some, factor, reinterpret_cast<std::uint8_t*>(codes + at));
    const auto again = std::as_writable_bytes(std::span(elements.data(), some));
    restore_step(codes + at, some, table, again.data());
    digest = crc64(again, digest);
  }
  return true;
}

}  // namespace

std::optional<std::vector<std::uint64_t>> fp8_cast(std::span<const std::byte> object,
                                                   std::size_t runs, HalfKind kind,
                                                   std::span<std::byte> cast) {
  const std::size_t count = checked_run_elements(object.size(), runs, cast.size());
  std::byte* const codes = cast.data() + runs * sizeof(std::int16_t);
  std::vector<std::uint64_t> digests(runs);
  for (std::size_t run = 0; run < runs; ++run) {
    std::int16_t exponent = 0;
    if (!cast_run(object.data() + run * count * sizeof(std::uint16_t), count, kind, exponent,
                  codes + run * count, digests[run])) {
      return std::nullopt;
    }
    std::memcpy(cast.data() + run * sizeof(exponent), &exponent, sizeof(exponent));
  }
  return digests;
}

void fp8_restore(std::span<const std::byte> cast, std::size_t runs, HalfKind kind,
                 std::span<std::byte> object) {
  const std::size_t count = checked_run_elements(object.size(), runs, cast.size());
  const std::byte* const codes = cast.data() + runs * sizeof(std::int16_t);
  for (std::size_t run = 0; run < runs; ++run) {
    std::int16_t exponent = 0;
    std::memcpy(&exponent, cast.data() + run * sizeof(exponent), sizeof(exponent));
    restore_step(codes + run * count, count, restored(exponent, kind),
                 object.data() + run * count * sizeof(std::uint16_t));
  }
}

}  // namespace penstock
