#include "io/channel_worker.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace penstock::io {
namespace {

constexpr int kEventsMax = 64;
constexpr int kForEver = -1;

}  // namespace

Worker::Worker()
    : epoll_(epoll_create1(EPOLL_CLOEXEC)), event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  epoll_event woken{.events = EPOLLIN, .data = {.fd = event_}};
  if (epoll_ < 0 || event_ < 0 || epoll_ctl(epoll_, EPOLL_CTL_ADD, event_, &woken) != 0) {
    const int error = errno;
    ::close(epoll_);
    ::close(event_);
    throw std::system_error(error, std::generic_category(), "epoll");
  }
  thread_.emplace([this] { run(); });
}

Worker::~Worker() {
  stop();
  ::close(epoll_);
  ::close(event_);
}

void Worker::post(std::function<void()> what) {
  const std::lock_guard lock(mutex_);
  if (asked_.empty()) eventfd_write(event_, 1);
  asked_.push_back(std::move(what));
}

void Worker::wait_for(int fd, std::uint32_t events) noexcept {
  // Refused of a socket that is not watched yet: whoever watches it then says what for.
  epoll_event wanted{.events = events, .data = {.fd = fd}};
  epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &wanted);
}

void Worker::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    eventfd_write(event_, 1);
  }
  if (thread_) thread_->join();
}

bool Worker::watch(int fd, std::shared_ptr<Polled> polled, std::uint32_t events) {
  epoll_event wanted{.events = events, .data = {.fd = fd}};
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &wanted) != 0) return false;
  polled_[fd] = std::move(polled);
  return true;
}

void Worker::unwatch(int fd) noexcept {
  epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
  polled_.erase(fd);
  expiries_.erase(fd);
}

void Worker::expire_at(int fd, Clock::time_point when) {
  expiries_[fd] = when;
}

int Worker::timeout_ms() const {
  if (expiries_.empty()) return kForEver;
  const auto by_time = [](const auto& left, const auto& right) {
    return left.second < right.second;
  };
  const auto first = std::min_element(expiries_.begin(), expiries_.end(), by_time);
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(first->second - Clock::now());
  return int(std::clamp<std::chrono::milliseconds::rep>(left.count(), 0, 60'000));
}

void Worker::expire() {
  if (expiries_.empty()) return;
  const Clock::time_point now = Clock::now();
  std::vector<int> due;
  for (const auto& [fd, when] : expiries_) {
    if (when <= now) due.push_back(fd);
  }
  for (const int fd : due) {
    const auto found = polled_.find(fd);
    if (found == polled_.end() || expiries_.erase(fd) == 0) continue;
    const std::shared_ptr<Polled> polled = found->second;  // which may take itself out
    polled->expired();
  }
}

void Worker::do_asked() {
  std::vector<std::function<void()>> asked;
  {
    const std::lock_guard lock(mutex_);
    eventfd_t rung = 0;
    eventfd_read(event_, &rung);
    asked = std::exchange(asked_, {});
  }
  for (const auto& what : asked) what();
}

void Worker::run() {
  std::array<epoll_event, kEventsMax> events{};
  for (;;) {
    const int count = epoll_wait(epoll_, events.data(), kEventsMax, timeout_ms());
    for (int at = 0; at < count; ++at) {
      const auto& event = events[std::size_t(at)];
      if (event.data.fd == event_) {
        do_asked();
        continue;
      }
      const auto found = polled_.find(event.data.fd);
      if (found == polled_.end()) continue;  // closed by what came before
      const std::shared_ptr<Polled> polled = found->second;
      polled->ready(event.events);
    }
    expire();
    const std::lock_guard lock(mutex_);
    if (stopping_ && asked_.empty()) return;
  }
}

}  // namespace penstock::io
