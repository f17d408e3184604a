#include "core/digest.hpp"

#include <array>

#include "core/cpu.hpp"
#include "core/digest_math.hpp"
#include "core/digest_paths.hpp"

namespace penstock {
namespace {

/// The implementations of this CPU, found once.
struct Implementations {
  std::array<Crc64Implementation, 3> list{};
  std::size_t count = 0;

  Implementations() noexcept {
    add("table", digest::update_table);
#if defined(__x86_64__)
    const CpuFeatures cpu = cpu_features();
    if (cpu.pclmul) {
      add("pclmul", digest::update_pclmul);
    }
    if (cpu.vpclmul512) {
      add("vpclmul512", digest::update_vpclmul512);
    }
#endif
  }

  void add(std::string_view name, Crc64Implementation::Update update) noexcept {
    list.at(count++) = {.name = name, .update = update};
  }
};

const Implementations& implementations() noexcept {
  static const Implementations found;
  return found;
}

}  // namespace

std::span<const Crc64Implementation> crc64_implementations() noexcept {
  const Implementations& found = implementations();
  return {found.list.data(), found.count};
}

std::uint64_t crc64(std::span<const std::byte> data, std::uint64_t initial) noexcept {
  static const Crc64Implementation::Update update = crc64_implementations().back().update;
  return ~update(~initial, data.data(), data.size());
}

Crc64Joiner::Crc64Joiner(std::uint64_t bytes_b) noexcept
    : shift_(digest::power(digest::x_power(8), bytes_b)) {}

std::uint64_t Crc64Joiner::join(std::uint64_t crc_a, std::uint64_t crc_b) const noexcept {
  // Moving A in front of B multiplies its register by x^8 per byte of B. The ones that the register
  // starts with and is inverted by cancel out, as in every CRC that uses the same word for both.
  return digest::multiply(crc_a, shift_) ^ crc_b;
}

std::uint64_t crc64_combine(std::uint64_t crc_a, std::uint64_t crc_b,
                            std::uint64_t bytes_b) noexcept {
  return Crc64Joiner(bytes_b).join(crc_a, crc_b);
}

std::uint64_t crc64_join_runs(std::span<const std::uint64_t> runs,
                              std::uint64_t run_bytes) noexcept {
  const Crc64Joiner joiner(run_bytes);
  std::uint64_t crc = 0;
  for (const std::uint64_t run : runs) {
    crc = joiner.join(crc, run);
  }
  return crc;
}

}  // namespace penstock
