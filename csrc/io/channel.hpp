// TCP data channels of one node: pieces of memory here go straight into memory there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

#include "io/channel_connection.hpp"
#include "io/channel_frame.hpp"
#include "io/channel_news.hpp"
#include "io/channel_options.hpp"
#include "io/channel_socket.hpp"

namespace penstock::io {

// The connection is lost, or was never.
class ChannelEnded : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The caller's side belongs to one thread, the loop's; bytes are moved by threads of the endpoint.
// What a landing or a send keeps dies on the caller's thread: with what told() returned, or at once
// where a call says so, or with the endpoint.
//
// A forked child has none of the threads: it may only forget the endpoint, whose sockets it holds
// open without effect, for both ends are shut down when they end.
class ChannelEndpoint {
 public:
  // Throws std::invalid_argument, and std::system_error when a thread is refused.
  explicit ChannelEndpoint(const ChannelOptions& options);
  // As close(). In a forked child nothing.
  ~ChannelEndpoint();
  ChannelEndpoint(const ChannelEndpoint&) = delete;
  ChannelEndpoint& operator=(const ChannelEndpoint&) = delete;
  ChannelEndpoint(ChannelEndpoint&&) = delete;
  ChannelEndpoint& operator=(ChannelEndpoint&&) = delete;

  // Readable while told() has something to say.
  [[nodiscard]] int event_fd() const noexcept;
  // What happened since the last call, the oldest first: so many news and numbers. Never waits.
  [[nodiscard]] std::vector<News> told(std::size_t count_max);

  // Accept from this socket, which listens and is the endpoint's now. Once.
  void listen(int fd);
  // Let in the one connection that shows this: News::accepted with this number.
  std::uint64_t expect(const Secret& secret);
  void forget(std::uint64_t number);
  // The id of a connection on its way: News::connected or News::lost. Throws ChannelEnded when
  // there are connections_max of them.
  std::uint64_t dial(const ChannelAddress& address, const Token& name, const Secret& secret);
  // End it: News::lost.
  void end(std::uint64_t connection, const char* reason);
  // Zeros for one that was released.
  [[nodiscard]] ChannelCounts counts(std::uint64_t connection);
  // After News::lost: nothing is known of it any more, and another may take its place.
  void release(std::uint64_t connection);

  // The id of a landing named by `token`. Throws ChannelEnded; std::length_error beyond
  // landings_max.
  std::uint64_t open_landing(std::uint64_t connection, const Token& token,
                             std::vector<LandingSlot> slots, Keep keep);
  // True: nobody writes there, and its keep is gone. Else News::drained will say so, or has.
  bool close_landing(std::uint64_t connection, const Token& token);

  // The id of what is on its way to a landing of the peer: News::sent or News::failed. 0: it is
  // sent, and its keep is gone. Throws ChannelEnded. At least one piece.
  std::uint64_t send(std::uint64_t connection, const Token& token, std::vector<PieceToSend> pieces,
                     Keep keep);
  // True: none of it is read any more, and its keep is gone. Else news will say so, or have.
  bool cancel_send(std::uint64_t connection, std::uint64_t id);

  // Ends everything, and waits for the threads, which takes no longer than one call of each to the
  // system. told() has the rest. Idempotent.
  void close();

 private:
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

}  // namespace penstock::io
