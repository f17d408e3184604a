#include "io/channel_socket.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace penstock::io {
namespace {

constexpr int kProbes = 3;

void set(int fd, int level, int name, int value) noexcept {
  // What a system does not have is done without.
  setsockopt(fd, level, name, &value, sizeof(value));
}

// The length of what was written to `storage`; 0: it is no address.
socklen_t resolve(const ChannelAddress& address, sockaddr_storage& storage) {
  auto* four = reinterpret_cast<sockaddr_in*>(&storage);
  if (inet_pton(AF_INET, address.host.c_str(), &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons(address.port);
    return sizeof(sockaddr_in);
  }
  auto* six = reinterpret_cast<sockaddr_in6*>(&storage);
  if (inet_pton(AF_INET6, address.host.c_str(), &six->sin6_addr) == 1) {
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(address.port);
    return sizeof(sockaddr_in6);
  }
  return 0;
}

}  // namespace

void prepare_socket(int fd, const ChannelOptions& options) noexcept {
  const auto timeout_ms = int(options.peer_timeout.count());
  const int interval_s = std::max(1, timeout_ms / 1000 / (kProbes + 1));
  set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, timeout_ms);
  set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(fd, IPPROTO_TCP, TCP_KEEPIDLE, interval_s);
  set(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval_s);
  set(fd, IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  if (options.socket_buffer_bytes > 0) {
    const int bytes = int(std::min<std::uint64_t>(options.socket_buffer_bytes, 1 << 30));
    set(fd, SOL_SOCKET, SO_SNDBUF, bytes);
    set(fd, SOL_SOCKET, SO_RCVBUF, bytes);
  }
}

int connect_socket(const ChannelAddress& address, const ChannelOptions& options) {
  sockaddr_storage storage{};
  const socklen_t length = resolve(address, storage);
  if (length == 0) return -EINVAL;
  const int fd = socket(storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  prepare_socket(fd, options);
  if (connect(fd, reinterpret_cast<sockaddr*>(&storage), length) != 0 && errno != EINPROGRESS) {
    const int error = errno;
    ::close(fd);
    return -error;
  }
  return fd;
}

}  // namespace penstock::io
