#include "io/channel_stream.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace penstock::io {
namespace {

constexpr int kReadsMax = 8;   // in one turn, before others have theirs
constexpr int kWritesMax = 4;  // the same
// A payload is waited for in such pieces: fewer wake-ups, and the window stays open.
constexpr std::uint64_t kWakeBytes = 1 << 20;
constexpr std::uint32_t kGone = EPOLLHUP | EPOLLERR;

std::string words(int error) {
  return std::generic_category().message(error);
}

}  // namespace

Stream::Stream(int fd, Phase phase, const FrameBytes& hello, Worker& worker,
               std::shared_ptr<Connection> connection, Newsroom& newsroom,
               const ChannelOptions& options)
    : fd_(fd),
      worker_(worker),
      connection_(std::move(connection)),
      newsroom_(newsroom),
      greeting_(hello),
      phase_(phase),
      reader_(fd, *connection_, options.receive_bytes),
      writer_(fd, *connection_) {}

Stream::~Stream() {
  if (!closed_) ::close(fd_);
}

void Stream::start() {
  worker_.post([self = shared_from_this()] {
    self->resume_ = [weak = std::weak_ptr(self), &worker = self->worker_] {
      worker.post([weak] {
        if (const auto alive = weak.lock()) alive->resume();
      });
    };
    if (!self->begin_to_wait()) {
      self->connection_->lose("no more sockets can be watched: " + words(errno));
    }
  });
}

void Stream::welcome() {
  const FrameBytes frame = encode_welcome(connection_->name());
  // A socket that sent nothing yet has room for it.
  if (::send(fd_, frame.data(), frame.size(), MSG_DONTWAIT | MSG_NOSIGNAL) !=
      ssize_t(frame.size())) {
    connection_->lose("it hung up as it was let in");
  }
  start();
}

void Stream::end() {
  worker_.post([self = shared_from_this()] { self->drop(); });
}

void Stream::drop() {
  std::vector<SendOver> over;
  {
    const std::scoped_lock lock(write_mutex_, interest_mutex_);
    if (std::exchange(closed_, true)) return;
    worker_.unwatch(fd_);
    // The peer is to know at once, though a forked child may hold the socket open.
    shutdown(fd_, SHUT_RDWR);
    ::close(fd_);
    writer_.abandon(over);
  }
  connection_->tell(std::move(over));
  connection_->closed();
}

std::uint32_t Stream::wanted() const {
  if (phase_ == Phase::connecting) return EPOLLOUT;
  const std::uint32_t in = paused_ ? 0U : std::uint32_t(EPOLLIN);
  const std::uint32_t out = armed_ ? std::uint32_t(EPOLLOUT) : 0U;
  return in | out;
}

bool Stream::begin_to_wait() {
  const std::lock_guard lock(interest_mutex_);
  return closed_ || worker_.watch(fd_, shared_from_this(), wanted());
}

// Whoever changes a flag calls this afterwards: the last to have the lock has seen all of them.
void Stream::wait_again() {
  const std::lock_guard lock(interest_mutex_);
  if (!closed_) worker_.wait_for(fd_, wanted());
}

void Stream::wake() {
  if (!armed_.exchange(true)) wait_again();
}

void Stream::ready(std::uint32_t events) {
  if (closed_ || connection_->is_lost()) return;
  switch (phase_.load()) {
    case Phase::connecting:
      return say_hello();
    case Phase::greeting:
      return hear_welcome();
    case Phase::open:
      if ((events & EPOLLOUT) != 0) write();
      if ((events & (EPOLLIN | kGone)) != 0) read(events);
  }
}

void Stream::say_hello() {
  int error = 0;
  socklen_t length = sizeof(error);
  getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) return connection_->lose("it cannot be reached: " + words(error));
  // A new socket has room for it.
  const ssize_t sent = ::send(fd_, greeting_.data(), kFrameBytes, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent != ssize_t(kFrameBytes)) {
    return connection_->lose("it hangs up before it was greeted");
  }
  phase_ = Phase::greeting;
  wait_again();
}

void Stream::hear_welcome() {
  const ssize_t received =
      recv(fd_, greeting_.data() + welcome_bytes_, kFrameBytes - welcome_bytes_, MSG_DONTWAIT);
  if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (received <= 0) return connection_->lose("the peer does not want this connection");
  welcome_bytes_ += std::size_t(received);
  if (welcome_bytes_ < kFrameBytes) return;
  if (decode_welcome(greeting_) != connection_->name()) {
    return connection_->lose("who answers speaks another language");
  }
  phase_ = Phase::open;
  connection_->greeted();
}

void Stream::read(std::uint32_t events) {
  if (paused_) {
    if ((events & kGone) != 0) return connection_->lose("the peer is gone");
    return wait_again();
  }
  bool more = true;
  for (int reads = 0; more && reads < kReadsMax; ++reads) {
    if (newsroom_.full(resume_)) {
      paused_ = true;
      wait_again();
      break;
    }
    const PartReader::Outcome outcome = reader_.read();
    if (outcome == PartReader::Outcome::lost) return connection_->lose(reader_.reason());
    more = outcome == PartReader::Outcome::more;
  }
  // However it ends: what is there by now may be less than was waited for before.
  wake_at(std::min(reader_.missing(), kWakeBytes));
}

void Stream::wake_at(std::uint64_t bytes) {
  if (bytes == lowest_) return;
  const int wanted = int(bytes);
  // The system takes less where its buffer is smaller; refused, one is woken more often.
  setsockopt(fd_, SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof(wanted));
  lowest_ = bytes;
}

void Stream::resume() {
  if (closed_ || !paused_.exchange(false)) return;
  wait_again();
}

void Stream::write() {
  std::vector<SendOver> over;
  PartWriter::Outcome outcome{};
  {
    const std::lock_guard lock(write_mutex_);
    for (int writes = 0; writes < kWritesMax; ++writes) {
      outcome = writer_.write(over);
      if (outcome != PartWriter::Outcome::more) break;
    }
  }
  connection_->tell(std::move(over));
  if (outcome == PartWriter::Outcome::lost) return connection_->lose(writer_.reason());
  if (outcome == PartWriter::Outcome::idle) rest();
}

void Stream::rest() {
  armed_ = false;
  wait_again();
  // What was added before armed_ was false woke nobody.
  if (!connection_->sends().is_empty()) wake();
}

bool Stream::send_now(std::vector<SendOver>& over) {
  if (armed_) return false;
  PartWriter::Outcome outcome{};
  {
    const std::unique_lock lock(write_mutex_, std::try_to_lock);
    if (!lock.owns_lock() || closed_ || !writer_.is_idle()) return false;
    outcome = writer_.write(over);
  }
  switch (outcome) {
    case PartWriter::Outcome::lost:
      connection_->lose(writer_.reason());
      break;
    case PartWriter::Outcome::blocked:
      wake();
      break;
    case PartWriter::Outcome::more:
    case PartWriter::Outcome::idle:
      if (!connection_->sends().is_empty()) wake();
  }
  return true;
}

}  // namespace penstock::io
