#include "io/channel_news.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <system_error>
#include <utility>

namespace penstock::io {

Newsroom::Newsroom(std::size_t arrivals_max)
    : arrivals_max_(arrivals_max), event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (event_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Newsroom::~Newsroom() {
  close(event_);
}

void Newsroom::ring() {
  // It can only be refused when it rings already.
  [[maybe_unused]] const int ignored = eventfd_write(event_, 1);
}

void Newsroom::add(News news) {
  const std::lock_guard lock(mutex_);
  if (news_.empty()) ring();
  news_.push_back(std::move(news));
}

void Newsroom::arrived(std::uint64_t landing, std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  ++arrivals_;
  if (!news_.empty() && news_.back().kind == News::Kind::arrived && news_.back().id == landing) {
    news_.back().numbers.push_back(number);
    return;
  }
  if (news_.empty()) ring();
  News news{.kind = News::Kind::arrived, .id = landing};
  news.numbers.push_back(number);
  news_.push_back(std::move(news));
}

void Newsroom::refused(std::string reason) {
  const std::lock_guard lock(mutex_);
  // A flood of strangers takes no more room than one.
  const auto told = std::find_if(news_.begin(), news_.end(),
                                 [](const News& one) { return one.kind == News::Kind::refused; });
  if (told != news_.end()) {
    ++told->of;
    return;
  }
  if (news_.empty()) ring();
  news_.push_back({.kind = News::Kind::refused, .of = 1, .reason = std::move(reason)});
}

bool Newsroom::full(const std::function<void()>& go_on) {
  const std::lock_guard lock(mutex_);
  if (arrivals_ < arrivals_max_) return false;
  held_back_.push_back(go_on);
  return true;
}

News Newsroom::next(std::size_t room) {
  News& front = news_.front();
  if (front.numbers.size() <= room) {
    News whole = std::move(front);
    news_.pop_front();
    return whole;
  }
  News part{.kind = front.kind, .id = front.id};
  const auto end = front.numbers.begin() + std::ptrdiff_t(room);
  part.numbers.assign(front.numbers.begin(), end);
  front.numbers.erase(front.numbers.begin(), end);
  return part;
}

std::vector<News> Newsroom::take(std::size_t count_max) {
  std::vector<News> taken;
  std::vector<std::function<void()>> going_on;
  {
    const std::lock_guard lock(mutex_);
    for (std::size_t room = count_max; !news_.empty() && room > 0;) {
      taken.push_back(next(room));
      const std::size_t numbers = taken.back().numbers.size();
      arrivals_ -= numbers;
      room -= std::min(room, std::max<std::size_t>(numbers, 1));
    }
    if (news_.empty()) {
      eventfd_t rung = 0;
      [[maybe_unused]] const int ignored = eventfd_read(event_, &rung);
    }
    if (arrivals_ <= arrivals_max_ / 2) going_on = std::exchange(held_back_, {});
  }
  for (const auto& go_on : going_on) go_on();
  return taken;
}

}  // namespace penstock::io
