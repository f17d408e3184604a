// The way out of one socket.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "io/channel_connection.hpp"

namespace penstock::io {

// One thread's at a time.
class PartWriter {
 public:
  enum class Outcome : std::uint8_t { idle, blocked, more, lost };

  PartWriter(int fd, Connection& connection);

  // One sendmsg of as much as is worth it. Sends whose memory is read no more go to `over`.
  [[nodiscard]] Outcome write(std::vector<SendOver>& over);
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }
  // Whether no part is begun.
  [[nodiscard]] bool is_idle() const noexcept { return parts_.empty(); }
  // Nothing more is written. The same for sends as in write.
  void abandon(std::vector<SendOver>& over);

 private:
  void advance(std::uint64_t bytes, std::vector<SendOver>& over);

  const int fd_;
  Connection& connection_;
  std::deque<Part> parts_;
  std::uint64_t first_bytes_ = 0;  // of the first part, its head included, that were written
  std::string reason_;
};

}  // namespace penstock::io
