#include "io/channel.hpp"

#include <unistd.h>

#include <deque>
#include <string>
#include <system_error>
#include <utility>

#include "io/channel_gate.hpp"
#include "io/channel_stream.hpp"
#include "io/channel_worker.hpp"

namespace penstock::io {
namespace {

constexpr unsigned kThreadsMax = 64;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

void check(const ChannelOptions& options) {
  require(options.threads >= 1 && options.threads <= kThreadsMax, "threads must be 1 to 64");
  require(options.streams >= 1 && options.streams <= kStreamsMax, "streams must be 1 to 16");
  require(options.connections_max >= 1 && options.connections_max <= 65'536,
          "connections_max must be 1 to 65536");
  require(options.strangers_max >= 1 && options.strangers_max <= 4096,
          "strangers_max must be 1 to 4096");
  require(options.hello_within.count() > 0, "hello_within must be longer than nothing");
  require(options.peer_timeout.count() > 0, "peer_timeout must be longer than nothing");
  require(options.part_bytes >= 4096 && options.part_bytes <= kPartBytesMax,
          "part_bytes must be 4 KiB to 64 MiB");
  require(options.receive_bytes >= 4096, "receive_bytes must be at least 4 KiB");
  require(options.arrivals_max >= 1, "arrivals_max must be at least 1");
  require(options.landings_max >= 1, "landings_max must be at least 1");
  require(options.pieces_max >= 1, "pieces_max must be at least 1");
}

}  // namespace

struct ChannelEndpoint::Shared {
  explicit Shared(const ChannelOptions& given) : options(given), newsroom(given.arrivals_max) {
    for (unsigned i = 0; i < options.threads; ++i) workers.emplace_back();
  }

  [[nodiscard]] std::shared_ptr<Connection> alive(std::uint64_t id) {
    auto connection = book.find(id);
    if (!connection || connection->is_lost()) throw ChannelEnded("the connection is over");
    return connection;
  }

  const pid_t owner = getpid();
  const ChannelOptions options;
  Newsroom newsroom;
  Expectations expectations;
  ConnectionBook book{options.connections_max};
  std::shared_ptr<Gate> gate;
  std::deque<Worker> workers;  // the last to be made is the first to go: they use all above
  std::uint64_t last_id = 0;   // of landings, sends and expectations
  std::size_t turn = 0;        // whose the next stream is
  bool closed = false;
};

ChannelEndpoint::ChannelEndpoint(const ChannelOptions& options) {
  check(options);
  shared_ = std::make_unique<Shared>(options);
}

ChannelEndpoint::~ChannelEndpoint() {
  if (shared_ && shared_->owner != getpid()) {
    // To join threads that stayed behind in the parent would be to wait for ever.
    [[maybe_unused]] const Shared* left_behind = shared_.release();
    return;
  }
  close();
}

int ChannelEndpoint::event_fd() const noexcept {
  return shared_->newsroom.event_fd();
}

std::vector<News> ChannelEndpoint::told(std::size_t count_max) {
  return shared_->newsroom.take(count_max);
}

void ChannelEndpoint::listen(int fd) {
  std::vector<Worker*> workers;
  for (Worker& one : shared_->workers) workers.push_back(&one);
  shared_->gate = std::make_shared<Gate>(fd, std::move(workers), shared_->options, shared_->book,
                                         shared_->expectations, shared_->newsroom);
  Gate::open(shared_->gate);
}

std::uint64_t ChannelEndpoint::expect(const Secret& secret) {
  shared_->expectations.add(secret, ++shared_->last_id);
  return shared_->last_id;
}

void ChannelEndpoint::forget(std::uint64_t number) {
  shared_->expectations.remove(number);
}

std::uint64_t ChannelEndpoint::dial(const ChannelAddress& address, const Token& name,
                                    const Secret& secret) {
  const std::uint64_t id = shared_->book.next_id();
  auto connection = std::make_shared<Connection>(id, name, shared_->options, shared_->newsroom);
  if (!shared_->book.add(id, connection)) {
    throw ChannelEnded("there are too many connections: raise connections_max");
  }
  const unsigned count = shared_->options.streams;
  std::vector<std::shared_ptr<Stream>> streams;
  int refusal = 0;
  for (unsigned at = 0; at < count && refusal == 0; ++at) {
    const int fd = connect_socket(address, shared_->options);
    refusal = fd < 0 ? -fd : 0;
    if (fd < 0) break;
    const FrameBytes hello = encode(Hello{.connection = name,
                                          .secret = secret,
                                          .stream = std::uint8_t(at),
                                          .streams = std::uint8_t(count)});
    Worker& worker = shared_->workers[shared_->turn++ % shared_->workers.size()];
    streams.push_back(std::make_shared<Stream>(fd, Stream::Phase::connecting, hello, worker,
                                               connection, shared_->newsroom, shared_->options));
  }
  connection->begin(streams);
  for (const auto& stream : streams) stream->start();
  if (refusal != 0) {
    connection->lose("it cannot be reached: " + std::generic_category().message(refusal));
  }
  return id;
}

void ChannelEndpoint::end(std::uint64_t connection, const char* reason) {
  if (const auto found = shared_->book.find(connection)) found->lose(reason);
}

ChannelCounts ChannelEndpoint::counts(std::uint64_t connection) {
  const auto found = shared_->book.find(connection);
  return found ? found->counts() : ChannelCounts{};
}

void ChannelEndpoint::release(std::uint64_t connection) {
  shared_->book.remove(connection);
}

std::uint64_t ChannelEndpoint::open_landing(std::uint64_t connection, const Token& token,
                                            std::vector<LandingSlot> slots, Keep keep) {
  const auto found = shared_->alive(connection);
  const std::uint64_t id = ++shared_->last_id;
  auto landing = std::make_shared<Landing>(id, token, std::move(slots), std::move(keep),
                                           shared_->options.pieces_max);
  if (!found->open(landing)) {
    if (found->is_lost()) throw ChannelEnded("the connection is over");
    throw std::length_error("the connection has landings_max landings open: close some");
  }
  return id;
}

bool ChannelEndpoint::close_landing(std::uint64_t connection, const Token& token) {
  const auto found = shared_->book.find(connection);
  return found && found->close(token).has_value();
}

std::uint64_t ChannelEndpoint::send(std::uint64_t connection, const Token& token,
                                    std::vector<PieceToSend> pieces, Keep keep) {
  const auto found = shared_->alive(connection);
  std::size_t parts = 0;
  std::uint64_t bytes = 0;
  for (const PieceToSend& piece : pieces) {
    parts += 1 + piece.bytes / shared_->options.part_bytes;
    bytes += piece.bytes;
  }
  auto send = std::make_shared<Send>(Send{.id = ++shared_->last_id,
                                          .token = token,
                                          .pieces = std::move(pieces),
                                          .keep = std::move(keep)});
  const std::uint64_t id = send->id;
  if (!found->sends().add(std::move(send))) throw ChannelEnded("the connection is over");
  bool is_over = false;
  for (SendOver& one : found->push(parts, bytes)) {
    if (one.id == id && one.is_whole) {
      is_over = true;
    } else {
      std::vector<SendOver> others;
      others.push_back(std::move(one));
      found->tell(std::move(others));
    }
  }
  return is_over ? 0 : id;
}

bool ChannelEndpoint::cancel_send(std::uint64_t connection, std::uint64_t id) {
  const auto found = shared_->book.find(connection);
  return found && found->sends().cancel(id).has_value();
}

void ChannelEndpoint::close() {
  if (std::exchange(shared_->closed, true)) return;
  if (shared_->gate) Gate::shut(shared_->gate);
  for (const auto& connection : shared_->book.close()) connection->lose("this side ended it");
  for (Worker& worker : shared_->workers) worker.stop();
}

}  // namespace penstock::io
