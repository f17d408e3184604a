// The extent allocator: which 4 KiB pages of the arena are free.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace penstock {

inline constexpr std::uint64_t kPageBytes = 4096;

// Hands out runs of consecutive pages of an arena and takes them back, both in constant time.
//
// A two-level segregated fit (Masmano, Ripoll, Crespo, Real: "TLSF: a new dynamic memory allocator
// for real-time systems", ECRTS 2004) with three changes that a cache of few, recurring sizes
// wants:
//  - the metadata lies outside the arena, which may be unbacked, shared, or registered with a
//  device,
//    and is mapped lazily: an arena costs memory only where an extent begins or ends in it;
//  - the class a request falls into is searched too (a bounded number of candidates), so that the
//  hole
//    an object left takes the next object of the same size, which plain TLSF passes over;
//  - a class spans 1/64 of its size, and sizes below 64 pages have a class each.
//
// Not thread-safe: it belongs to the table, and the table belongs to the loop thread.
class ExtentAllocator {
 public:
  // `arena_bytes`: a multiple of kPageBytes, at least one page and less than 8 TiB; anything else
  // throws std::invalid_argument. All pages are free at first. Throws std::bad_alloc when the
  // address space for the metadata (12 bytes a page) cannot be had.
  explicit ExtentAllocator(std::uint64_t arena_bytes);
  ~ExtentAllocator();
  ExtentAllocator(const ExtentAllocator&) = delete;
  ExtentAllocator& operator=(const ExtentAllocator&) = delete;
  ExtentAllocator(ExtentAllocator&&) = delete;
  ExtentAllocator& operator=(ExtentAllocator&&) = delete;

  // The first page of a run of `pages` consecutive pages, or nothing when there is no such run. A
  // run that would fit can be missed only behind kLastResortCandidates smaller ones within 1/64 of
  // the size asked for. `pages` == 0 throws std::invalid_argument.
  [[nodiscard]] std::optional<std::uint32_t> allocate(std::uint32_t pages);

  // Backs the metadata that allocate() will write for rows of runs of these lengths, `rows` of them
  // after `rows_before` others, as long as one free run serves them all: with several, it was
  // written before, when they came to be.
  void make_ready(std::span<const std::uint32_t> row, std::uint64_t rows_before,
                  std::uint64_t rows);

  // Gives back a run exactly as it was allocated; it merges with free neighbours. A run that is not
  // allocated, or not with this length, throws std::logic_error and changes nothing.
  void release(std::uint32_t first_page, std::uint32_t pages);

  [[nodiscard]] std::uint64_t pages_total() const { return pages_total_; }
  [[nodiscard]] std::uint64_t pages_free() const { return pages_free_; }

  // The longest free run: exact below 64 pages, else at most 1/64 too low (when its class holds
  // more than kLastResortCandidates runs). Constant time. 0 when nothing is free.
  [[nodiscard]] std::uint64_t largest_free_pages() const;

  // Memory that the metadata takes: all pages of it that were ever written. The entry of an extent
  // is 12 bytes, but where extents are longer than 341 pages each has a page of metadata to itself.
  [[nodiscard]] std::uint64_t metadata_bytes() const;

  // For tests: walks everything and throws std::logic_error naming the first broken invariant.
  void validate() const;

 private:
  static constexpr std::uint32_t kSubclassBits = 6;
  static constexpr std::uint32_t kSubclasses = 1U << kSubclassBits;
  static constexpr std::uint32_t kFree = 1U << 31U;
  static constexpr std::uint32_t kLevels = 31 - kSubclassBits + 1;
  static constexpr std::uint32_t kNone = UINT32_MAX;
  static constexpr std::uint32_t kCandidates = 8;
  static constexpr std::uint32_t kLastResortCandidates = 256;

  // What is known of one page. The tag is 0 inside a run. At a free run's first and last page it is
  // the run's length with kFree set; at an allocated run's first page it is the length alone.
  // The links are those of the run's class list and mean something at a free run's first page only.
  struct Page {
    std::uint32_t tag;
    std::uint32_t next;
    std::uint32_t previous;
  };

  struct SizeClass {
    std::uint32_t level;
    std::uint32_t subclass;
  };

  static SizeClass class_of(std::uint32_t pages);
  [[nodiscard]] std::uint32_t find(std::uint32_t pages) const;
  [[nodiscard]] std::uint32_t find_within(std::uint32_t first, std::uint32_t pages,
                                          std::uint32_t candidates) const;
  [[nodiscard]] std::uint32_t find_above(SizeClass size_class) const;
  void insert_free(std::uint32_t first, std::uint32_t pages);
  void remove_free(std::uint32_t first, std::uint32_t pages);
  void note_written(std::uint32_t page);
  [[nodiscard]] std::uint64_t validate_runs() const;
  [[nodiscard]] std::uint64_t validate_lists() const;

  std::uint64_t pages_total_;
  std::uint64_t pages_free_ = 0;
  Page* pages_ = nullptr;              // pages_total_ entries, zero until touched
  std::vector<bool> written_;          // by page of the metadata: it was written once
  std::uint64_t written_pages_ = 0;    // how many of them
  std::uint32_t levels_nonempty_ = 0;  // bit l: subclasses_nonempty_[l] != 0
  std::array<std::uint64_t, kLevels> subclasses_nonempty_{};
  std::array<std::array<std::uint32_t, kSubclasses>, kLevels> heads_{};
};

}  // namespace penstock
