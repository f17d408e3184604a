#include "io/channel_landing.hpp"

#include <utility>

namespace penstock::io {

Landing::Landing(std::uint64_t id, Token token, std::vector<LandingSlot> slots, Keep keep,
                 std::size_t pieces_max)
    : id_(id),
      token_(token),
      slots_(std::move(slots)),
      pieces_max_(pieces_max),
      keep_(std::move(keep)) {}

bool Landing::admits(const PartFrame& part) {
  if (part.slot >= slots_.size()) return false;
  const std::uint64_t room = slots_[part.slot].bytes;
  if (part.bytes > room || part.offset > room - part.bytes) return false;
  const std::lock_guard lock(mutex_);
  if (closed_) return false;
  auto found = progress_.find(part.number);
  if (found == progress_.end()) {
    if (progress_.size() >= pieces_max_) return false;
    found = progress_.emplace(part.number, Progress{.bytes = part.bytes}).first;
  } else if (found->second.whole == found->second.bytes) {
    return false;  // it has come before
  }
  Progress& progress = found->second;
  if (progress.bytes != part.bytes || part.length > progress.bytes - progress.admitted) {
    return false;
  }
  progress.admitted += part.length;
  return true;
}

std::byte* Landing::enter(const PartFrame& part, std::uint64_t done) {
  const std::lock_guard lock(mutex_);
  if (closed_) return nullptr;
  ++inside_;
  return slots_[part.slot].data + part.offset + part.part_offset + done;
}

std::optional<Keep> Landing::leave() {
  const std::lock_guard lock(mutex_);
  --inside_;
  return finish_locked();
}

bool Landing::complete(const PartFrame& part) {
  const std::lock_guard lock(mutex_);
  if (closed_) return false;
  Progress& progress = progress_.at(part.number);
  progress.whole += part.length;
  return progress.whole == progress.bytes;
}

void Landing::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  progress_ = {};
}

std::optional<Keep> Landing::finish() {
  const std::lock_guard lock(mutex_);
  return finish_locked();
}

std::optional<Keep> Landing::finish_locked() {
  if (!closed_ || inside_ > 0 || finished_) return std::nullopt;
  finished_ = true;
  return std::move(keep_);
}

}  // namespace penstock::io
