// What is left to move of a list of buffers, cut into steps the system takes.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "io/step.hpp"

namespace penstock::io {

// Whole blocks of so many bytes are what direct transfers are made of: addresses, offsets, lengths.
inline constexpr std::uint64_t kBlockBytes = 4096;
// Of one step. The system moves a page less than 2 GiB at most, and whole blocks must remain whole.
inline constexpr std::uint64_t kStepBytesMax = 1U << 30;
inline constexpr unsigned kStepVectorsMax = 1024;  // IOV_MAX

[[nodiscard]] std::uint64_t bytes_of(const std::vector<iovec>& vectors) noexcept;

// The first `bytes` of the buffers as whole blocks: a last block that is not full is copied into
// `tail` with zeros behind, so that no neighbour's byte goes to the disk with it.
struct WholeBlocks {
  struct Free {
    void operator()(void* block) const noexcept;
  };

  // Throws std::bad_alloc. `bytes` is at most what the buffers have.
  WholeBlocks(const std::vector<iovec>& vectors, std::uint64_t bytes);

  std::vector<iovec> vectors;
  std::unique_ptr<void, Free> tail;
};

// The first `bytes` of the buffers. `bytes` is at most what they have.
[[nodiscard]] std::vector<iovec> first_bytes(const std::vector<iovec>& vectors,
                                             std::uint64_t bytes);

class Transfer {
 public:
  Transfer(std::vector<iovec> vectors, std::uint64_t offset);

  [[nodiscard]] bool done() const noexcept { return left_ == 0; }
  [[nodiscard]] std::uint64_t moved() const noexcept { return moved_; }
  // Sets vectors, count, offset and bytes of a read or a write. Must not be done.
  void ask(Step& step);
  // That the last step moved so many bytes, at most what was asked for.
  void advance(std::uint64_t bytes) noexcept;

 private:
  std::vector<iovec> vectors_;
  std::vector<iovec> window_;  // of the step under way
  std::size_t first_ = 0;      // vector that is not moved yet
  std::uint64_t offset_;
  std::uint64_t left_;
  std::uint64_t moved_ = 0;
};

}  // namespace penstock::io
