#include "io/transfer.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace penstock::io {

std::uint64_t bytes_of(const std::vector<iovec>& vectors) noexcept {
  std::uint64_t sum = 0;
  for (const iovec& one : vectors) sum += one.iov_len;
  return sum;
}

std::vector<iovec> first_bytes(const std::vector<iovec>& vectors, std::uint64_t bytes) {
  std::vector<iovec> first;
  first.reserve(vectors.size() + 1);  // WholeBlocks adds one
  for (const iovec& one : vectors) {
    const std::uint64_t taken = std::min<std::uint64_t>(one.iov_len, bytes);
    if (taken > 0) first.push_back({one.iov_base, taken});
    bytes -= taken;
  }
  return first;
}

void WholeBlocks::Free::operator()(void* block) const noexcept {
  std::free(block);
}

WholeBlocks::WholeBlocks(const std::vector<iovec>& from, std::uint64_t bytes)
    : vectors(first_bytes(from, bytes - bytes % kBlockBytes)) {
  if (bytes % kBlockBytes == 0) return;
  tail.reset(std::aligned_alloc(kBlockBytes, kBlockBytes));
  if (!tail) throw std::bad_alloc();
  std::memset(tail.get(), 0, kBlockBytes);
  std::uint64_t skip = bytes - bytes % kBlockBytes;
  auto* to = static_cast<std::byte*>(tail.get());
  for (const iovec& one : first_bytes(from, bytes)) {
    const std::uint64_t skipped = std::min<std::uint64_t>(one.iov_len, skip);
    skip -= skipped;
    std::memcpy(to, static_cast<const std::byte*>(one.iov_base) + skipped, one.iov_len - skipped);
    to += one.iov_len - skipped;
  }
  vectors.push_back({tail.get(), kBlockBytes});
}

Transfer::Transfer(std::vector<iovec> vectors, std::uint64_t offset)
    : vectors_(std::move(vectors)), offset_(offset), left_(bytes_of(vectors_)) {}

void Transfer::ask(Step& step) {
  window_.clear();
  std::uint64_t bytes = 0;
  for (std::size_t i = first_; i < vectors_.size() && window_.size() < kStepVectorsMax; ++i) {
    const std::uint64_t taken = std::min<std::uint64_t>(vectors_[i].iov_len, kStepBytesMax - bytes);
    if (taken == 0) break;
    window_.push_back({vectors_[i].iov_base, taken});
    bytes += taken;
  }
  step.vectors = window_.data();
  step.count = static_cast<unsigned>(window_.size());
  step.offset = offset_;
  step.bytes = bytes;
}

void Transfer::advance(std::uint64_t bytes) noexcept {
  offset_ += bytes;
  left_ -= bytes;
  moved_ += bytes;
  while (bytes > 0) {
    iovec& one = vectors_[first_];
    const std::uint64_t taken = std::min<std::uint64_t>(one.iov_len, bytes);
    one.iov_base = static_cast<std::byte*>(one.iov_base) + taken;
    one.iov_len -= taken;
    bytes -= taken;
    if (one.iov_len == 0) ++first_;
  }
}

}  // namespace penstock::io
