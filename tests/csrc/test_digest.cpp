// CRC-64/NVME: the published value, every implementation against the definition, and combining.
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/digest.hpp"
#include "core/digest_math.hpp"

namespace {

std::vector<std::byte> random_bytes(std::size_t count, unsigned seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> data(count);
  for (std::byte& byte : data) {
    byte = static_cast<std::byte>(random());
  }
  return data;
}

/// The definition, one bit at a time.
std::uint64_t by_definition(std::span<const std::byte> data) {
  std::uint64_t state = penstock::digest::kAllOnes;
  for (const std::byte byte : data) {
    state ^= std::to_integer<std::uint64_t>(byte);
    for (int bit = 0; bit < 8; ++bit) {
      state = (state >> 1) ^ ((state & 1) != 0 ? 0x9A6C9329AC4BC9B5 : 0);
    }
  }
  return ~state;
}

std::uint64_t digest_with(const penstock::Crc64Implementation& one,
                          std::span<const std::byte> data) {
  return ~one.update(penstock::digest::kAllOnes, data.data(), data.size());
}

}  // namespace

TEST_CASE(every_implementation_gives_the_published_check_value) {
  const std::string text = "123456789";
  for (const auto& one : penstock::crc64_implementations()) {
    CHECK_EQ(digest_with(one, std::as_bytes(std::span(text))), 0xAE8B14860A799888);
  }
  CHECK_EQ(penstock::crc64(std::as_bytes(std::span(text))), 0xAE8B14860A799888);
  CHECK_EQ(penstock::crc64({}), 0U);
}

TEST_CASE(every_implementation_equals_the_definition_at_all_lengths_and_alignments) {
  constexpr std::size_t kLengthMax = 1100;  // four rounds of the widest form, and all its tails
  const std::vector<std::byte> data = random_bytes(kLengthMax + 64, 1);
  for (std::size_t length = 0; length <= kLengthMax; ++length) {
    const std::size_t aligned = length % 64;
    const auto part = std::span(data).subspan(aligned, length);
    const std::uint64_t expected = by_definition(part);
    for (const auto& one : penstock::crc64_implementations()) {
      CHECK_EQ(digest_with(one, part), expected);
    }
  }
  for (std::size_t aligned = 0; aligned < 64; ++aligned) {
    for (const std::size_t length : {1U, 15U, 16U, 63U, 64U, 255U, 256U, 257U, 511U, 1000U}) {
      const auto part = std::span(data).subspan(aligned, length);
      const std::uint64_t expected = digest_with(penstock::crc64_implementations().front(), part);
      for (const auto& one : penstock::crc64_implementations()) {
        CHECK_EQ(digest_with(one, part), expected);
      }
    }
  }
}

TEST_CASE(a_digest_continues_where_it_stopped) {
  const std::vector<std::byte> data = random_bytes(3000, 2);
  const std::uint64_t whole = by_definition(data);
  std::mt19937_64 random(3);
  for (int round = 0; round < 200; ++round) {
    penstock::Crc64 digest;
    for (std::size_t at = 0; at < data.size();) {
      const std::size_t part = std::min<std::size_t>(random() % 700, data.size() - at);
      digest.update(std::span(data).subspan(at, part));
      at += part;
    }
    CHECK_EQ(digest.final(), whole);
  }
}

TEST_CASE(digests_of_neighbours_combine) {
  const std::vector<std::byte> data = random_bytes(5000, 4);
  const std::uint64_t whole = penstock::crc64(data);
  for (std::size_t cut = 0; cut <= data.size(); cut += 7) {
    const auto left = std::span(data).first(cut);
    const auto right = std::span(data).subspan(cut);
    CHECK_EQ(penstock::crc64_combine(penstock::crc64(left), penstock::crc64(right), right.size()),
             whole);
  }
}

TEST_CASE(run_digests_join_to_the_digest_of_the_object) {
  const std::vector<std::byte> data = random_bytes(16 * 300, 5);
  std::vector<std::uint64_t> runs;
  for (std::size_t at = 0; at < data.size(); at += 300) {
    runs.push_back(penstock::crc64(std::span(data).subspan(at, 300)));
  }
  CHECK_EQ(penstock::crc64_join_runs(runs, 300), penstock::crc64(data));
  CHECK_EQ(penstock::crc64_join_runs({}, 300), 0U);
}

TEST_CASE(any_single_flipped_bit_changes_the_digest) {
  std::vector<std::byte> data = random_bytes(700, 6);
  const std::uint64_t whole = penstock::crc64(data);
  for (std::size_t bit = 0; bit < 8 * data.size(); ++bit) {
    data[bit / 8] ^= std::byte{1} << (bit % 8);
    CHECK(penstock::crc64(data) != whole);
    data[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

CHECK_MAIN()
