// Pieces on their way out of one connection, cut into parts that its streams take as they can.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "io/channel_frame.hpp"
#include "io/job.hpp"

namespace penstock::io {

struct PieceToSend {
  std::uint64_t number = 0;
  std::uint64_t offset = 0;
  std::uint32_t slot = 0;
  const std::byte* data = nullptr;
  std::uint64_t bytes = 0;
};

// What was asked for together. Its fields but the first three belong to the queue.
struct Send {
  std::uint64_t id = 0;
  Token token{};
  std::vector<PieceToSend> pieces{};
  Keep keep{};

  std::size_t next = 0;             // the first piece that was not begun or not begun to its end
  std::uint64_t next_offset = 0;    // in it
  std::size_t parts_under_way = 0;  // taken by streams, and not over
  bool cut_short = false;           // cancelled, or lost with parts that were not sent
};

struct Part {
  std::shared_ptr<Send> send{};
  PartFrame frame{};
  FrameBytes head{};
  const std::byte* data = nullptr;
};

// A send whose memory is read no more.
struct SendOver {
  std::uint64_t id = 0;
  bool is_whole = false;
  Keep keep{};  // let go of on the caller's thread
};

// All of it under one mutex. Bounded by whoever adds.
class SendQueue {
 public:
  explicit SendQueue(std::uint64_t part_bytes) : part_bytes_(part_bytes) {}

  // False: it was stopped. Its pieces are more than none.
  [[nodiscard]] bool add(std::shared_ptr<Send> send);
  // Parts that follow, in order, onto the end of `parts`: until they have so many bytes.
  void take(std::deque<Part>& parts, std::size_t count_max, std::uint64_t bytes_max);
  [[nodiscard]] bool is_empty();

  // The stream reads this part's memory no more. What became of its send, if it is over by that.
  [[nodiscard]] std::optional<SendOver> sent(const Part& part);
  [[nodiscard]] std::optional<SendOver> dropped(const Part& part);

  // Begins no more parts of it. The end of it, if none is under way; nothing: that comes later, or
  // came before.
  [[nodiscard]] std::optional<SendOver> cancel(std::uint64_t id);
  // Begins nothing any more. The ends of those that have no part under way.
  [[nodiscard]] std::vector<SendOver> stop();

 private:
  [[nodiscard]] std::optional<SendOver> over(Send& send);
  [[nodiscard]] Part next_part(const std::shared_ptr<Send>& send);

  const std::uint64_t part_bytes_;
  std::mutex mutex_;
  std::deque<std::shared_ptr<Send>> waiting_;  // with pieces that were not begun
  std::unordered_map<std::uint64_t, std::shared_ptr<Send>> sends_;  // all that are not over
  bool stopped_ = false;
};

}  // namespace penstock::io
