// What the threads of data channels have to tell the caller, and in which order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "io/job.hpp"

namespace penstock::io {

struct News {
  enum class Kind : std::uint8_t {
    connected,  // a connection that was dialled works
    accepted,   // one that was expected, `of` by that number, works under `id`
    arrived,    // `numbers` of pieces that are whole in landing `id`
    sent,       // the memory of send `id` is read no more
    failed,     // and not all of it was sent
    drained,    // landing `id` is closed, and nobody writes there
    lost,       // connection `id` is over, and all of its sends and landings were told of
    refused,    // a stranger; so many since the last such news: `of`
  };

  Kind kind{};
  std::uint64_t id = 0;
  std::uint64_t of = 0;
  std::vector<std::uint64_t> numbers{};
  std::string reason{};
  Keep keep{};
};

// Any thread adds, the caller's takes. What is added is bounded by what was asked for, but for
// arrivals, which peers make: full() holds their streams back until the caller has listened.
//
// field      guard
// news_      mutex
// arrivals_  mutex    numbers in news_
// held_back_ mutex
// event_     -        a descriptor that lives as long as this
class Newsroom {
 public:
  // Throws std::system_error when there is no eventfd to be had.
  explicit Newsroom(std::size_t arrivals_max);
  ~Newsroom();
  Newsroom(const Newsroom&) = delete;
  Newsroom& operator=(const Newsroom&) = delete;
  Newsroom(Newsroom&&) = delete;
  Newsroom& operator=(Newsroom&&) = delete;

  // Readable while there are news.
  [[nodiscard]] int event_fd() const noexcept { return event_; }

  void add(News news);
  void arrived(std::uint64_t landing, std::uint64_t number);
  // Counted, and told of together.
  void refused(std::string reason);

  // Whether no more may arrive; then `go_on` is called, on the caller's thread, once they may.
  [[nodiscard]] bool full(const std::function<void()>& go_on);

  // The oldest first; so many news and numbers together. Never waits.
  [[nodiscard]] std::vector<News> take(std::size_t count_max);

 private:
  void ring();
  [[nodiscard]] News next(std::size_t room);

  const std::size_t arrivals_max_;
  int event_;
  std::mutex mutex_;
  std::deque<News> news_;
  std::size_t arrivals_ = 0;  // <= arrivals_max_, and one of each stream
  std::vector<std::function<void()>> held_back_;
};

}  // namespace penstock::io
