// Sockets as data channels want them.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "io/channel_options.hpp"

namespace penstock::io {

// Where to dial: a literal address, nothing that has to be looked up.
struct ChannelAddress {
  std::string host;  // IPv4 or IPv6
  std::uint16_t port = 0;
};

// A socket on its way there, which does not block. -errno: refused at once.
[[nodiscard]] int connect_socket(const ChannelAddress& address, const ChannelOptions& options);

// Small frames leave at once; a peer that answers nothing any more is noticed.
void prepare_socket(int fd, const ChannelOptions& options) noexcept;

}  // namespace penstock::io
