#include "io/channel_gate.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "io/channel_socket.hpp"
#include "io/channel_stream.hpp"

namespace penstock::io {
namespace {

constexpr int kAcceptsMax = 64;  // in one turn
// The system tells of nobody when a descriptor is free again.
constexpr std::chrono::milliseconds kRetry{50};

bool is_passing(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

}  // namespace

void Expectations::add(const Secret& secret, std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  expected_.push_back({.secret = secret, .number = number, .claimed = std::nullopt});
}

void Expectations::remove(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  std::erase_if(expected_, [number](const Expected& one) { return one.number == number; });
}

std::optional<std::uint64_t> Expectations::claim(const Secret& secret, const Token& connection) {
  const std::lock_guard lock(mutex_);
  Expected* found = nullptr;
  for (Expected& one : expected_) {
    if (equal_in_constant_time(one.secret, secret)) found = &one;
  }
  if (found == nullptr || (found->claimed && *found->claimed != connection)) return std::nullopt;
  found->claimed = connection;
  return found->number;
}

void Expectations::release(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  for (Expected& one : expected_) {
    if (one.number == number) one.claimed.reset();
  }
}

bool Expectations::fulfil(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  return std::erase_if(expected_, [number](const Expected& one) { return one.number == number; }) >
         0;
}

Stranger::~Stranger() {
  if (fd_ >= 0) ::close(fd_);
}

int Stranger::release() noexcept {
  return std::exchange(fd_, -1);
}

void Stranger::ready(std::uint32_t /*events*/) {
  // One byte more than a hello, so that whoever goes on talking is heard.
  std::array<std::byte, kFrameBytes + 1> said{};
  const std::size_t room = said.size() - head_bytes_;
  const ssize_t received = recv(fd_, said.data(), room, MSG_DONTWAIT);
  if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (received < 0) return gate_.refuse(*this, std::generic_category().message(errno));
  if (received == 0) return gate_.refuse(*this, "it hung up before it was let in");
  const auto bytes = std::size_t(received);
  if (head_bytes_ + bytes > kFrameBytes) {
    return gate_.refuse(*this, "it did not wait to be let in");
  }
  std::copy_n(said.begin(), bytes, head_.begin() + std::ptrdiff_t(head_bytes_));
  head_bytes_ += bytes;
  if (head_bytes_ < kFrameBytes) return;
  hello_ = decode_hello(head_);
  if (!hello_) return gate_.refuse(*this, "what it said is no hello");
  gate_.greet(*this, *hello_);
}

void Stranger::expired() {
  gate_.refuse(*this, hello_ ? "not all of its streams came in time" : "it said no hello in time");
}

Gate::Gate(int fd, std::vector<Worker*> workers, const ChannelOptions& options,
           ConnectionBook& book, Expectations& expectations, Newsroom& newsroom)
    : fd_(fd),
      workers_(std::move(workers)),
      options_(options),
      book_(book),
      expectations_(expectations),
      newsroom_(newsroom) {}

Gate::~Gate() {
  if (fd_ >= 0) ::close(fd_);
}

void Gate::open(std::shared_ptr<Gate> gate) {
  Worker& worker = *gate->workers_.front();
  worker.post([gate = std::move(gate)] {
    if (!gate->workers_.front()->watch(gate->fd_, gate, EPOLLIN)) {
      gate->newsroom_.refused("nobody can be let in: " + std::generic_category().message(errno));
    }
  });
}

void Gate::shut(std::shared_ptr<Gate> gate) {
  Worker& worker = *gate->workers_.front();
  worker.post([gate = std::move(gate)] {
    if (gate->fd_ < 0) return;
    Worker& own = *gate->workers_.front();
    own.unwatch(gate->fd_);
    ::close(std::exchange(gate->fd_, -1));
    for (const auto& stranger : gate->strangers_) own.unwatch(stranger->fd());
    gate->strangers_.clear();
    gate->parties_.clear();
  });
}

void Gate::ready(std::uint32_t /*events*/) {
  for (int accepts = 0; accepts < kAcceptsMax && fd_ >= 0; ++accepts) {
    const int fd = accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      take_in(fd);
    } else if (is_passing(errno)) {
      newsroom_.refused("nobody can be accepted: " + std::generic_category().message(errno));
      workers_.front()->wait_for(fd_, 0);
      workers_.front()->expire_at(fd_, Clock::now() + kRetry);
      return;
    } else if (errno != ECONNABORTED && errno != EINTR && errno != EPROTO) {
      return;
    }
  }
}

void Gate::expired() {
  workers_.front()->wait_for(fd_, EPOLLIN);
}

void Gate::take_in(int fd) {
  if (strangers_.size() >= options_.strangers_max) {
    const std::shared_ptr<Stranger> longest = strangers_.front();
    refuse(*longest, "too many strangers came at once");
  }
  auto stranger = std::make_shared<Stranger>(fd, *this);
  prepare_socket(fd, options_);
  if (!workers_.front()->watch(fd, stranger, EPOLLIN)) {
    return newsroom_.refused("no more sockets can be watched");
  }
  workers_.front()->expire_at(fd, Clock::now() + options_.hello_within);
  strangers_.push_back(std::move(stranger));
}

std::shared_ptr<Stranger> Gate::find(int fd) {
  const auto found = std::find_if(strangers_.begin(), strangers_.end(),
                                  [fd](const auto& one) { return one->fd() == fd; });
  return found == strangers_.end() ? nullptr : *found;
}

void Gate::leave(Stranger& stranger) {
  workers_.front()->unwatch(stranger.fd());
  std::erase_if(strangers_, [&](const auto& one) { return one.get() == &stranger; });
}

void Gate::refuse(Stranger& stranger, const std::string& reason) {
  newsroom_.refused(reason);
  const std::shared_ptr<Stranger> kept = find(stranger.fd());
  leave(stranger);
  if (!stranger.hello()) return;
  const auto found = parties_.find(stranger.hello()->connection);
  if (found == parties_.end()) return;
  auto& streams = found->second.streams;
  if (std::find(streams.begin(), streams.end(), kept) == streams.end()) return;
  for (const auto& sibling : streams) {
    if (sibling && sibling != kept) leave(*sibling);
  }
  expectations_.release(found->second.expected);
  parties_.erase(found);
}

void Gate::greet(Stranger& stranger, const Hello& hello) {
  const auto expected = expectations_.claim(hello.secret, hello.connection);
  if (!expected) return refuse(stranger, "nobody expects the secret it showed");
  Party& party = parties_[hello.connection];
  if (party.streams.empty()) {
    party.expected = *expected;
    party.streams.resize(hello.streams);
  }
  if (party.expected != *expected || party.streams.size() != hello.streams ||
      party.streams[hello.stream]) {
    return refuse(stranger, "it contradicts what came before it");
  }
  party.streams[hello.stream] = find(stranger.fd());
  const bool all = std::all_of(party.streams.begin(), party.streams.end(),
                               [](const auto& one) { return one != nullptr; });
  if (!all) return;
  const Token name = hello.connection;
  const Party whole = std::move(party);
  parties_.erase(name);
  admit(name, whole);
}

void Gate::admit(const Token& name, const Party& party) {
  for (const auto& stranger : party.streams) leave(*stranger);
  if (!expectations_.fulfil(party.expected)) {
    return newsroom_.refused("it was forgotten while it came");
  }
  const std::uint64_t id = book_.next_id();
  auto connection = std::make_shared<Connection>(id, name, options_, newsroom_);
  if (!book_.add(id, connection)) return newsroom_.refused("there are too many connections");
  std::vector<std::shared_ptr<Stream>> streams;
  for (const auto& stranger : party.streams) {
    Worker& worker = *workers_[turn_++ % workers_.size()];
    streams.push_back(std::make_shared<Stream>(stranger->release(), Stream::Phase::open,
                                               FrameBytes{}, worker, connection, newsroom_,
                                               options_));
  }
  connection->begin(streams);
  newsroom_.add({.kind = News::Kind::accepted, .id = id, .of = party.expected});
  for (const auto& stream : streams) stream->welcome();
}

}  // namespace penstock::io
