// The way in of one socket: frames, and payloads straight to where they belong.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "io/channel_connection.hpp"

namespace penstock::io {

// One thread's. A payload that has no place is read all the same, into memory that nobody looks at.
class PartReader {
 public:
  enum class Outcome : std::uint8_t { drained, more, lost };

  PartReader(int fd, Connection& connection, std::uint64_t receive_bytes);

  // One recv: the rest of a payload, and the next frame behind it.
  [[nodiscard]] Outcome read();
  // Why it is lost.
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }
  // There is nothing to be done until so many more bytes are there: at least 1.
  [[nodiscard]] std::uint64_t missing() const noexcept;

 private:
  [[nodiscard]] Outcome lost(std::string reason);
  [[nodiscard]] std::size_t aim(std::array<iovec, 2>& vectors, std::byte* inside);
  // False: the frame is none.
  [[nodiscard]] bool take_frame();
  void take_payload(std::uint64_t bytes);
  void end_payload();

  const int fd_;
  Connection& connection_;
  const std::uint64_t receive_bytes_;
  FrameBytes head_{};
  std::size_t head_bytes_ = 0;        // of head_ that have come
  bool in_payload_ = false;           // then part_ is the one, and
  PartFrame part_;                    //
  std::uint64_t payload_bytes_ = 0;   // so many bytes of it have come
  std::shared_ptr<Landing> landing_;  // nullptr: refused
  std::vector<std::byte> scratch_;
  std::string reason_;
};

}  // namespace penstock::io
