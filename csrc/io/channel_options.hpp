// What a node decides about its TCP data channels.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace penstock::io {

struct ChannelOptions {
  unsigned threads = 2;                          // that move bytes; 1 to 64
  unsigned streams = 1;                          // sockets of a connection that is dialled; 1 to 16
  std::size_t connections_max = 256;             // dialled and accepted; 1 to 65536
  std::size_t strangers_max = 64;                // accepted, hello not yet complete; 1 to 4096
  std::chrono::milliseconds hello_within{2000};  // for a stranger's whole hello
  std::chrono::milliseconds peer_timeout{10'000};  // bytes or probes unanswered for so long: lost
  std::uint64_t part_bytes = 4 << 20;              // a piece travels in parts; 4 KiB to 64 MiB
  std::uint64_t receive_bytes = 4 << 20;           // of one recv: what closing a landing waits for
  std::uint64_t socket_buffer_bytes = 0;           // of each direction; 0: the system's own tuning
  std::size_t arrivals_max = 65'536;  // whole pieces not yet told of, of all connections
  std::size_t landings_max = 4096;    // open ones of a connection
  std::size_t pieces_max = 1 << 20;   // that one landing takes in its life
};

inline constexpr unsigned kStreamsMax = 16;
inline constexpr std::uint64_t kPartBytesMax = 64 << 20;

}  // namespace penstock::io
