// CRC-64/NVME: the digest of every (layer, kv) run, of every object and of every stored header.
//
// The checksum of the NVM Express command set and of S3 (x-amz-checksum-crc64nvme). Polynomial
// 0xAD93D23594C93659, input and output reflected, register all ones before and inverted after;
// the digest of "123456789" is 0xAE8B14860A799888. Digests of neighbouring ranges combine, so parts
// may be computed by different threads, or at different times.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace penstock {

/// Continues `initial`, the digest of what went before (0: nothing), over `data`.
[[nodiscard]] std::uint64_t crc64(std::span<const std::byte> data,
                                  std::uint64_t initial = 0) noexcept;

/// The digest of A followed by B, from both digests and the length of B.
[[nodiscard]] std::uint64_t crc64_combine(std::uint64_t crc_a, std::uint64_t crc_b,
                                          std::uint64_t bytes_b) noexcept;

/// crc64_combine for many B of one length: the power of x is computed once.
class Crc64Joiner {
 public:
  explicit Crc64Joiner(std::uint64_t bytes_b) noexcept;
  [[nodiscard]] std::uint64_t join(std::uint64_t crc_a, std::uint64_t crc_b) const noexcept;

 private:
  std::uint64_t shift_;  // x ^ (8 * bytes_b)
};

/// The digest of consecutive runs of equal length: an object's digest from its run digests.
[[nodiscard]] std::uint64_t crc64_join_runs(std::span<const std::uint64_t> runs,
                                            std::uint64_t run_bytes) noexcept;

/// A digest in progress.
class Crc64 {
 public:
  void update(std::span<const std::byte> data) noexcept { crc_ = crc64(data, crc_); }
  /// The digest of everything seen so far; more may follow.
  [[nodiscard]] std::uint64_t final() const noexcept { return crc_; }

 private:
  std::uint64_t crc_ = 0;
};

/// One way to compute the digest. All give the same result.
struct Crc64Implementation {
  /// Works on the register itself: all ones at the start, inverted by the caller at the end.
  using Update = std::uint64_t (*)(std::uint64_t state, const std::byte* data, std::size_t bytes);

  std::string_view name;  // "table", "pclmul" or "vpclmul512"
  Update update;
};

/// The implementations that this CPU can run, slowest first; crc64 uses the last one.
[[nodiscard]] std::span<const Crc64Implementation> crc64_implementations() noexcept;

}  // namespace penstock
