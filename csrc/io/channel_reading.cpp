#include "io/channel_reading.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace penstock::io {
namespace {

constexpr std::uint64_t kScratchBytes = 256 << 10;

}  // namespace

PartReader::PartReader(int fd, Connection& connection, std::uint64_t receive_bytes)
    : fd_(fd), connection_(connection), receive_bytes_(receive_bytes) {}

std::uint64_t PartReader::missing() const noexcept {
  return in_payload_ ? part_.length - payload_bytes_ : kFrameBytes - head_bytes_;
}

PartReader::Outcome PartReader::lost(std::string reason) {
  reason_ = std::move(reason);
  return Outcome::lost;
}

std::size_t PartReader::aim(std::array<iovec, 2>& vectors, std::byte* inside) {
  std::size_t count = 0;
  if (in_payload_) {
    const std::uint64_t left = missing();
    const std::uint64_t room = inside != nullptr ? receive_bytes_ : kScratchBytes;
    if (inside == nullptr) scratch_.resize(std::max(scratch_.size(), std::min(left, room)));
    vectors[count++] = {inside != nullptr ? inside : scratch_.data(), std::min(left, room)};
    if (left > room) return count;
  }
  vectors[count++] = {head_.data() + head_bytes_, kFrameBytes - head_bytes_};
  return count;
}

PartReader::Outcome PartReader::read() {
  std::byte* inside = landing_ ? landing_->enter(part_, payload_bytes_) : nullptr;
  std::array<iovec, 2> vectors{};
  msghdr message{};
  message.msg_iov = vectors.data();
  message.msg_iovlen = aim(vectors, inside);
  const ssize_t received = recvmsg(fd_, &message, MSG_DONTWAIT);
  const int error = errno;
  if (inside != nullptr) {
    connection_.left(*landing_, landing_->leave());
  } else if (landing_) {
    landing_.reset();  // closed by now: what is left of the piece goes nowhere
  }
  if (received == 0) return lost("the peer ended it");
  if (received < 0) {
    if (error == EAGAIN || error == EINTR) return Outcome::drained;
    return lost(std::generic_category().message(error));
  }
  auto bytes = std::uint64_t(received);
  std::uint64_t asked = 0;
  for (const iovec& one : vectors) asked += one.iov_len;
  const bool is_short = bytes < asked;
  if (in_payload_) {
    const std::uint64_t ours = std::min<std::uint64_t>(bytes, vectors[0].iov_len);
    take_payload(ours);
    bytes -= ours;
  }
  head_bytes_ += bytes;
  if (head_bytes_ == kFrameBytes && !take_frame()) return lost("the peer sent what is no frame");
  return is_short ? Outcome::drained : Outcome::more;
}

void PartReader::take_payload(std::uint64_t bytes) {
  payload_bytes_ += bytes;
  if (payload_bytes_ == part_.length) end_payload();
}

void PartReader::end_payload() {
  in_payload_ = false;
  if (const auto landing = std::exchange(landing_, nullptr)) {
    connection_.arrived(*landing, part_);
  } else {
    connection_.refused(part_);
  }
}

bool PartReader::take_frame() {
  head_bytes_ = 0;
  const auto part = decode_part(head_);
  if (!part) return false;
  part_ = *part;
  payload_bytes_ = 0;
  in_payload_ = true;
  landing_ = connection_.landing(part_.token);
  if (landing_ && !landing_->admits(part_)) landing_.reset();
  if (part_.length == 0) end_payload();
  return true;
}

}  // namespace penstock::io
