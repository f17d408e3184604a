// One peer: its sockets, the landings it may write to, and what is on its way to it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/channel_frame.hpp"
#include "io/channel_landing.hpp"
#include "io/channel_news.hpp"
#include "io/channel_options.hpp"
#include "io/channel_sending.hpp"

namespace penstock::io {

class Stream;

struct ChannelCounts {
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
  std::uint64_t pieces_sent = 0;
  std::uint64_t pieces_received = 0;
  std::uint64_t pieces_refused = 0;
};

// made -> (dialling ->) open -> lost -> over: the last of its streams has closed its socket, so
// nobody touches memory for it; news of its sends, then of its landings, then of itself.
//
// field      guard       who uses it without
// streams_   mutex       -
// landings_  mutex       -
// lost_      mutex       is_lost: a hint
// reason_    mutex       -
// open_      atomic
// greeted_   atomic
// sends_     its own
// counts     atomic, each
//
// The mutex of a stream may not be held when this one is taken.
class Connection {
 public:
  Connection(std::uint64_t id, const Token& name, const ChannelOptions& options,
             Newsroom& newsroom);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  Connection(Connection&&) = delete;
  Connection& operator=(Connection&&) = delete;

  [[nodiscard]] std::uint64_t id() const noexcept { return id_; }
  [[nodiscard]] const Token& name() const noexcept { return name_; }
  [[nodiscard]] SendQueue& sends() noexcept { return sends_; }
  [[nodiscard]] ChannelCounts counts() const noexcept;

  // All of its streams, before any thread but this one knows of them.
  void begin(std::vector<std::shared_ptr<Stream>> streams);

  // Any thread: it is over, for the first reason given. Does not wait.
  void lose(const std::string& reason);
  [[nodiscard]] bool is_lost() const noexcept { return lost_; }

  // The caller's thread.
  // False: it is lost, or has landings_max of them open.
  [[nodiscard]] bool open(const std::shared_ptr<Landing>& landing);
  // Its keep, if nobody writes there; nothing: news will tell, or have told.
  [[nodiscard]] std::optional<Keep> close(const Token& landing);
  // What was added to sends() is on its way, or over: `parts` or fewer, of so many bytes. Small: by
  // this thread, where nobody else is at it; what is over by that is returned.
  [[nodiscard]] std::vector<SendOver> push(std::size_t parts, std::uint64_t bytes);

  // The threads of its streams.
  [[nodiscard]] std::shared_ptr<Landing> landing(const Token& token);
  void arrived(Landing& landing, const PartFrame& part);
  void refused(const PartFrame& part);
  void left(Landing& landing, std::optional<Keep> keep);
  void count_sent(const PartFrame& part);
  void tell(std::vector<SendOver> over);
  // One more of its streams was welcomed by the listener.
  void greeted();
  // One of its streams has closed its socket.
  void closed();

 private:
  void finish();

  struct Counts {
    std::atomic<std::uint64_t> bytes_sent{0};
    std::atomic<std::uint64_t> bytes_received{0};
    std::atomic<std::uint64_t> pieces_sent{0};
    std::atomic<std::uint64_t> pieces_received{0};
    std::atomic<std::uint64_t> pieces_refused{0};
  };

  const std::uint64_t id_;
  const Token name_;
  const std::size_t landings_max_;
  Newsroom& newsroom_;
  SendQueue sends_;
  Counts counts_;
  std::atomic<std::size_t> open_{0};
  std::atomic<std::size_t> greeted_{0};
  std::atomic<bool> lost_{false};
  std::mutex mutex_;
  std::string reason_;
  std::vector<std::shared_ptr<Stream>> streams_;  // none once it is over
  std::unordered_map<Token, std::shared_ptr<Landing>, TokenHash> landings_;
};

// All connections of an endpoint, by id. Under one mutex.
class ConnectionBook {
 public:
  explicit ConnectionBook(std::size_t connections_max) : connections_max_(connections_max) {}

  // False: there are connections_max of them, or none may come any more.
  [[nodiscard]] bool add(std::uint64_t id, std::shared_ptr<Connection> connection);
  [[nodiscard]] std::shared_ptr<Connection> find(std::uint64_t id);
  void remove(std::uint64_t id);
  // All of them; no more are added.
  [[nodiscard]] std::vector<std::shared_ptr<Connection>> close();
  // Unique to this book.
  [[nodiscard]] std::uint64_t next_id() noexcept { return ++last_id_; }

 private:
  const std::size_t connections_max_;
  std::mutex mutex_;
  std::atomic<std::uint64_t> last_id_{0};
  bool closed_ = false;
  std::unordered_map<std::uint64_t, std::shared_ptr<Connection>> connections_;
};

}  // namespace penstock::io
