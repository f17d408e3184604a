// Memory that the peer of one connection may write to, until it is closed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "io/channel_frame.hpp"
#include "io/job.hpp"

namespace penstock::io {

struct LandingSlot {
  std::byte* data = nullptr;
  std::uint64_t bytes = 0;
};

// open --close--> closed --nobody is inside--> finished: whoever finds that it is, once, has its
// keep, and must let go of it on the caller's thread.
//
// field      guard
// progress_  mutex
// closed_    mutex
// inside_    mutex
// finished_  mutex
// keep_      mutex
//
// Between enter and leave exactly one recv is made into what enter gave.
class Landing {
 public:
  // It takes at most pieces_max pieces, whatever becomes of them.
  Landing(std::uint64_t id, Token token, std::vector<LandingSlot> slots, Keep keep,
          std::size_t pieces_max);

  [[nodiscard]] std::uint64_t id() const noexcept { return id_; }
  [[nodiscard]] const Token& token() const noexcept { return token_; }

  // Whether this part of a piece has its place here: within its slot, and not come before.
  [[nodiscard]] bool admits(const PartFrame& part);
  // Where its bytes from `done` on belong; nullptr: it is closed by now. After admits, before
  // leave.
  [[nodiscard]] std::byte* enter(const PartFrame& part, std::uint64_t done);
  // Its keep, if this was the last one inside of a closed one.
  [[nodiscard]] std::optional<Keep> leave();
  // The part is whole; whether the piece is by it. False for a closed one.
  [[nodiscard]] bool complete(const PartFrame& part);

  // Takes nothing any more from now on, but for one recv of each stream that is inside.
  void close();
  // Its keep, if it is closed, nobody is inside, and nobody had it yet.
  [[nodiscard]] std::optional<Keep> finish();

 private:
  // Bytes of a piece that were admitted and are whole; the two are equal in between parts.
  struct Progress {
    std::uint64_t bytes = 0;  // of the piece, as its first part said
    std::uint64_t admitted = 0;
    std::uint64_t whole = 0;
  };

  [[nodiscard]] std::optional<Keep> finish_locked();

  const std::uint64_t id_;
  const Token token_;
  const std::vector<LandingSlot> slots_;
  const std::size_t pieces_max_;
  std::mutex mutex_;
  std::unordered_map<std::uint64_t, Progress> progress_;  // by number; size <= pieces_max_
  unsigned inside_ = 0;                                   // one at most of each stream
  bool closed_ = false;
  bool finished_ = false;  // closed_, inside_ == 0
  Keep keep_;
};

}  // namespace penstock::io
