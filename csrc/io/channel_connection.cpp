#include "io/channel_connection.hpp"

#include <utility>

#include "io/channel_stream.hpp"

namespace penstock::io {
namespace {

// What the caller's thread copies into a socket itself: less than waking another thread takes.
constexpr std::uint64_t kAtOnceBytes = 16 << 10;
constexpr std::size_t kAtOnceParts = 16;

}  // namespace

Connection::Connection(std::uint64_t id, const Token& name, const ChannelOptions& options,
                       Newsroom& newsroom)
    : id_(id),
      name_(name),
      landings_max_(options.landings_max),
      newsroom_(newsroom),
      sends_(options.part_bytes) {}

Connection::~Connection() = default;

ChannelCounts Connection::counts() const noexcept {
  return {.bytes_sent = counts_.bytes_sent,
          .bytes_received = counts_.bytes_received,
          .pieces_sent = counts_.pieces_sent,
          .pieces_received = counts_.pieces_received,
          .pieces_refused = counts_.pieces_refused};
}

void Connection::begin(std::vector<std::shared_ptr<Stream>> streams) {
  const std::lock_guard lock(mutex_);
  streams_ = std::move(streams);
  open_ = streams_.size();
}

void Connection::lose(const std::string& reason) {
  std::vector<std::shared_ptr<Stream>> streams;
  {
    const std::lock_guard lock(mutex_);
    if (lost_.exchange(true)) return;
    reason_ = reason;
    streams = streams_;
    for (const auto& [token, landing] : landings_) landing->close();
  }
  tell(sends_.stop());
  if (streams.empty()) finish();
  for (const auto& stream : streams) stream->end();
}

void Connection::closed() {
  if (--open_ == 0) finish();
}

void Connection::finish() {
  decltype(landings_) landings;
  {
    const std::lock_guard lock(mutex_);
    streams_.clear();
    landings = std::exchange(landings_, {});
  }
  for (const auto& [token, landing] : landings) left(*landing, landing->finish());
  newsroom_.add({.kind = News::Kind::lost, .id = id_, .reason = reason_});
}

bool Connection::open(const std::shared_ptr<Landing>& landing) {
  const std::lock_guard lock(mutex_);
  if (lost_ || landings_.size() >= landings_max_) return false;
  return landings_.emplace(landing->token(), landing).second;
}

std::optional<Keep> Connection::close(const Token& token) {
  std::shared_ptr<Landing> landing;
  {
    const std::lock_guard lock(mutex_);
    const auto found = landings_.find(token);
    if (found == landings_.end()) return std::nullopt;
    landing = found->second;
    landing->close();
    // Once it is lost, the last of its streams tells of all landings, and of itself after them.
    if (lost_) return std::nullopt;
    landings_.erase(found);
  }
  return landing->finish();
}

std::vector<SendOver> Connection::push(std::size_t parts, std::uint64_t bytes) {
  std::vector<SendOver> over;
  std::vector<std::shared_ptr<Stream>> streams;
  {
    const std::lock_guard lock(mutex_);
    streams = streams_;
  }
  if (parts <= kAtOnceParts && bytes <= kAtOnceBytes) {
    for (const auto& stream : streams) {
      if (stream->send_now(over)) return over;
    }
  }
  for (const auto& stream : streams) {
    if (parts-- == 0) break;
    stream->wake();
  }
  return over;
}

std::shared_ptr<Landing> Connection::landing(const Token& token) {
  const std::lock_guard lock(mutex_);
  const auto found = landings_.find(token);
  return found == landings_.end() ? nullptr : found->second;
}

void Connection::arrived(Landing& landing, const PartFrame& part) {
  if (!landing.complete(part)) return;
  ++counts_.pieces_received;
  counts_.bytes_received += part.bytes;
  newsroom_.arrived(landing.id(), part.number);
}

void Connection::refused(const PartFrame& part) {
  if (part.is_last()) ++counts_.pieces_refused;
}

void Connection::left(Landing& landing, std::optional<Keep> keep) {
  if (!keep) return;
  newsroom_.add({.kind = News::Kind::drained, .id = landing.id(), .keep = std::move(*keep)});
}

void Connection::count_sent(const PartFrame& part) {
  if (!part.is_last()) return;
  ++counts_.pieces_sent;
  counts_.bytes_sent += part.bytes;
}

void Connection::tell(std::vector<SendOver> over) {
  for (SendOver& one : over) {
    newsroom_.add({.kind = one.is_whole ? News::Kind::sent : News::Kind::failed,
                   .id = one.id,
                   .keep = std::move(one.keep)});
  }
}

void Connection::greeted() {
  if (++greeted_ == open_) newsroom_.add({.kind = News::Kind::connected, .id = id_});
}

bool ConnectionBook::add(std::uint64_t id, std::shared_ptr<Connection> connection) {
  const std::lock_guard lock(mutex_);
  if (closed_ || connections_.size() >= connections_max_) return false;
  connections_.emplace(id, std::move(connection));
  return true;
}

std::shared_ptr<Connection> ConnectionBook::find(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  const auto found = connections_.find(id);
  return found == connections_.end() ? nullptr : found->second;
}

void ConnectionBook::remove(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  connections_.erase(id);
}

std::vector<std::shared_ptr<Connection>> ConnectionBook::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  std::vector<std::shared_ptr<Connection>> all;
  all.reserve(connections_.size());
  for (const auto& [id, connection] : connections_) all.push_back(connection);
  return all;
}

}  // namespace penstock::io
