#include "io/channel_sending.hpp"

#include <algorithm>
#include <utility>

namespace penstock::io {

bool SendQueue::add(std::shared_ptr<Send> send) {
  const std::lock_guard lock(mutex_);
  if (stopped_) return false;
  sends_.emplace(send->id, send);
  waiting_.push_back(std::move(send));
  return true;
}

void SendQueue::take(std::deque<Part>& parts, std::size_t count_max, std::uint64_t bytes_max) {
  const std::lock_guard lock(mutex_);
  std::uint64_t bytes = 0;
  while (!waiting_.empty() && count_max > 0 && bytes < bytes_max) {
    const std::shared_ptr<Send> send = waiting_.front();
    parts.push_back(next_part(send));
    if (send->next == send->pieces.size()) waiting_.pop_front();
    bytes += parts.back().frame.length;
    --count_max;
  }
}

Part SendQueue::next_part(const std::shared_ptr<Send>& send) {
  const PieceToSend& piece = send->pieces[send->next];
  const std::uint64_t length = std::min(piece.bytes - send->next_offset, part_bytes_);
  Part part{.send = send,
            .frame = {.token = send->token,
                      .number = piece.number,
                      .offset = piece.offset,
                      .bytes = piece.bytes,
                      .part_offset = send->next_offset,
                      .length = std::uint32_t(length),
                      .slot = piece.slot},
            .data = piece.data + send->next_offset};
  part.head = encode(part.frame);
  ++send->parts_under_way;
  send->next_offset += length;
  if (send->next_offset == piece.bytes) {
    ++send->next;
    send->next_offset = 0;
  }
  return part;
}

bool SendQueue::is_empty() {
  const std::lock_guard lock(mutex_);
  return waiting_.empty();
}

std::optional<SendOver> SendQueue::sent(const Part& part) {
  const std::lock_guard lock(mutex_);
  --part.send->parts_under_way;
  return over(*part.send);
}

std::optional<SendOver> SendQueue::dropped(const Part& part) {
  const std::lock_guard lock(mutex_);
  part.send->cut_short = true;
  --part.send->parts_under_way;
  return over(*part.send);
}

std::optional<SendOver> SendQueue::cancel(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  const auto found = sends_.find(id);
  if (found == sends_.end()) return std::nullopt;
  const std::shared_ptr<Send> send = found->second;
  if (send->next < send->pieces.size()) {
    send->next = send->pieces.size();
    send->cut_short = true;
    std::erase(waiting_, send);
  }
  return over(*send);
}

std::vector<SendOver> SendQueue::stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  std::vector<SendOver> ended;
  for (const std::shared_ptr<Send>& send : std::exchange(waiting_, {})) {
    send->next = send->pieces.size();
    send->cut_short = true;
    if (auto one = over(*send)) ended.push_back(std::move(*one));
  }
  return ended;
}

std::optional<SendOver> SendQueue::over(Send& send) {
  if (send.parts_under_way > 0 || send.next < send.pieces.size()) return std::nullopt;
  SendOver ended{.id = send.id, .is_whole = !send.cut_short, .keep = std::move(send.keep)};
  sends_.erase(send.id);
  return ended;
}

}  // namespace penstock::io
