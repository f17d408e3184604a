#include "io/channel_writing.hpp"

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace penstock::io {
namespace {

constexpr std::size_t kPartsMax = 64;         // gathered by one sendmsg
constexpr std::uint64_t kBytesMin = 1 << 20;  // more parts are added to it until it has so many

}  // namespace

PartWriter::PartWriter(int fd, Connection& connection) : fd_(fd), connection_(connection) {}

PartWriter::Outcome PartWriter::write(std::vector<SendOver>& over) {
  if (parts_.empty()) connection_.sends().take(parts_, kPartsMax, kBytesMin);
  if (parts_.empty()) return Outcome::idle;
  std::array<iovec, 2 * kPartsMax> vectors{};
  msghdr message{};
  message.msg_iov = vectors.data();
  std::uint64_t skipped = first_bytes_;
  std::uint64_t asked = 0;
  const auto add = [&](const std::byte* data, std::uint64_t bytes) {
    const std::uint64_t skip = std::min(skipped, bytes);
    skipped -= skip;
    if (bytes == skip) return;
    // A sendmsg does not write to what it sends.
    vectors[message.msg_iovlen++] = {const_cast<std::byte*>(data) + skip, bytes - skip};
    asked += bytes - skip;
  };
  for (const Part& part : parts_) {
    add(part.head.data(), kFrameBytes);
    add(part.data, part.frame.length);
  }
  const ssize_t sent = sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0) {
    if (errno == EAGAIN || errno == EINTR) return Outcome::blocked;
    reason_ = std::generic_category().message(errno);
    return Outcome::lost;
  }
  advance(std::uint64_t(sent), over);
  return std::uint64_t(sent) < asked ? Outcome::blocked : Outcome::more;
}

void PartWriter::advance(std::uint64_t bytes, std::vector<SendOver>& over) {
  first_bytes_ += bytes;
  while (!parts_.empty() && first_bytes_ >= kFrameBytes + parts_.front().frame.length) {
    const Part part = std::move(parts_.front());
    parts_.pop_front();
    first_bytes_ -= kFrameBytes + part.frame.length;
    connection_.count_sent(part.frame);
    if (auto one = connection_.sends().sent(part)) over.push_back(std::move(*one));
  }
}

void PartWriter::abandon(std::vector<SendOver>& over) {
  for (const Part& part : std::exchange(parts_, {})) {
    if (auto one = connection_.sends().dropped(part)) over.push_back(std::move(*one));
  }
}

}  // namespace penstock::io
