#include <array>
#include <bit>
#include <cstring>

#include "core/digest_math.hpp"
#include "core/digest_paths.hpp"

namespace penstock::digest {
namespace {

inline constexpr std::size_t kSlices = 16;

/// kTables[s][b]: what byte b contributes when s more bytes follow it.
using Tables = std::array<std::array<std::uint64_t, 256>, kSlices>;

constexpr Tables make_tables() noexcept {
  Tables tables{};
  for (std::size_t byte = 0; byte < 256; ++byte) {
    std::uint64_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) {
      crc = times_x(crc);
    }
    tables[0][byte] = crc;
  }
  for (std::size_t slice = 1; slice < kSlices; ++slice) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint64_t before = tables[slice - 1][byte];
      tables[slice][byte] = (before >> 8) ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

std::uint64_t load_word(const std::byte* data) noexcept {
  static_assert(std::endian::native == std::endian::little);
  std::uint64_t word = 0;
  std::memcpy(&word, data, sizeof word);
  return word;
}

/// The eight bytes of `word`, the first of which has `after + 7` bytes behind it.
std::uint64_t step_word(std::uint64_t word, std::size_t after) noexcept {
  std::uint64_t crc = 0;
  for (std::size_t i = 0; i < 8; ++i) {
    crc ^= kTables[after + 7 - i][(word >> (8 * i)) & 0xFF];
  }
  return crc;
}

}  // namespace

std::uint64_t update_table(std::uint64_t state, const std::byte* data, std::size_t bytes) {
  for (; bytes >= kSlices; data += kSlices, bytes -= kSlices) {
    state = step_word(state ^ load_word(data), 8) ^ step_word(load_word(data + 8), 0);
  }
  for (; bytes != 0; ++data, --bytes) {
    state = (state >> 8) ^ kTables[0][(state ^ std::to_integer<std::uint64_t>(*data)) & 0xFF];
  }
  return state;
}

}  // namespace penstock::digest
