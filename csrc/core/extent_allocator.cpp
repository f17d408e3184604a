#include "core/extent_allocator.hpp"

#include <sys/mman.h>

#include <bit>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>

namespace penstock {
namespace {

[[noreturn]] void broken(const std::string& what, std::uint64_t page) {
  throw std::logic_error("extent allocator: " + what + " at page " + std::to_string(page));
}

std::uint64_t checked_pages(std::uint64_t arena_bytes) {
  const std::uint64_t pages = arena_bytes / kPageBytes;
  if (arena_bytes == 0 || arena_bytes % kPageBytes != 0 || pages >= (1ULL << 31U)) {
    throw std::invalid_argument("an arena of " + std::to_string(arena_bytes) +
                                " bytes: give a multiple of 4096 between 4096 and 8 TiB");
  }
  return pages;
}

}  // namespace

ExtentAllocator::ExtentAllocator(std::uint64_t arena_bytes)
    : pages_total_(checked_pages(arena_bytes)) {
  const std::size_t bytes = pages_total_ * sizeof(Page);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  // A huge page here would back two megabytes for every run that begins in 700 MiB of arena.
  // Kernels without huge pages refuse the advice, which is as good.
  static_cast<void>(madvise(memory, bytes, MADV_NOHUGEPAGE));
  pages_ = static_cast<Page*>(memory);
  written_.resize((bytes - 1) / kPageBytes + 1);
  for (auto& level : heads_) level.fill(kNone);
  insert_free(0, static_cast<std::uint32_t>(pages_total_));
}

ExtentAllocator::~ExtentAllocator() {
  munmap(pages_, pages_total_ * sizeof(Page));
}

std::optional<std::uint32_t> ExtentAllocator::allocate(std::uint32_t pages) {
  if (pages == 0) throw std::invalid_argument("an extent of 0 pages cannot be allocated");
  const std::uint32_t first = find(pages);
  if (first == kNone) return std::nullopt;
  const std::uint32_t found = pages_[first].tag & ~kFree;
  remove_free(first, found);
  if (found > pages) insert_free(first + pages, found - pages);
  pages_[first].tag = pages;
  return first;
}

void ExtentAllocator::make_ready(std::span<const std::uint32_t> row, std::uint64_t rows_before,
                                 std::uint64_t rows) {
  const std::uint64_t row_pages = std::accumulate(row.begin(), row.end(), std::uint64_t{0});
  const std::uint32_t first = row.empty() ? kNone : find(row.front());
  if (first == kNone) return;
  const std::uint64_t end = std::uint64_t{first} + (pages_[first].tag & ~kFree);
  std::uint64_t page = first + rows_before * row_pages;
  for (std::uint64_t i = 0; i < rows; ++i) {
    for (const std::uint32_t pages : row) {
      page += pages;  // where the rest of the free run will begin
      if (page >= end) return;
      volatile std::uint32_t& tag = pages_[page].tag;
      tag = tag;
    }
  }
}

void ExtentAllocator::release(std::uint32_t first_page, std::uint32_t pages) {
  if (pages == 0 || first_page >= pages_total_ || pages_[first_page].tag != pages) {
    broken("release of a run of " + std::to_string(pages) + " that is not allocated", first_page);
  }
  pages_[first_page].tag = 0;
  std::uint32_t first = first_page;
  std::uint32_t length = pages;
  if (first > 0 && (pages_[first - 1].tag & kFree) != 0) {
    const std::uint32_t before = pages_[first - 1].tag & ~kFree;
    first -= before;
    length += before;
    remove_free(first, before);
  }
  const std::uint32_t end = first_page + pages;
  if (end < pages_total_ && (pages_[end].tag & kFree) != 0) {
    const std::uint32_t after = pages_[end].tag & ~kFree;
    length += after;
    remove_free(end, after);
  }
  insert_free(first, length);
}

std::uint64_t ExtentAllocator::largest_free_pages() const {
  if (levels_nonempty_ == 0) return 0;
  const auto level = static_cast<std::uint32_t>(std::bit_width(levels_nonempty_)) - 1;
  const auto subclass = static_cast<std::uint32_t>(std::bit_width(subclasses_nonempty_[level])) - 1;
  if (level == 0) return subclass;
  std::uint32_t largest = 0;
  std::uint32_t candidates = kLastResortCandidates;
  for (std::uint32_t first = heads_[level][subclass]; first != kNone && candidates > 0;
       first = pages_[first].next, --candidates) {
    const std::uint32_t pages = pages_[first].tag & ~kFree;
    if (pages > largest) largest = pages;
  }
  return largest;
}

// Below 64 pages a class is one size: level 0, subclass = pages. Above, a level is a power of two
// and a subclass 1/64 of it.
ExtentAllocator::SizeClass ExtentAllocator::class_of(std::uint32_t pages) {
  if (pages < kSubclasses) return {0, pages};
  const auto top_bit = static_cast<std::uint32_t>(std::bit_width(pages)) - 1;
  const std::uint32_t shift = top_bit - kSubclassBits;
  return {shift + 1, (pages >> shift) & (kSubclasses - 1)};
}

std::uint32_t ExtentAllocator::find(std::uint32_t pages) const {
  if (pages > pages_free_) return kNone;
  const SizeClass own = class_of(pages);
  // 1. the own class: most often the hole of an object of this very size;
  std::uint32_t first = find_within(heads_[own.level][own.subclass], pages, kCandidates);
  if (first != kNone) return first;
  // 2. the next class above that has any run: all of its runs fit;
  first = find_above(own);
  if (first != kNone) return first;
  // 3. the own class again, longer, since the other choice is an eviction.
  return find_within(heads_[own.level][own.subclass], pages, kLastResortCandidates);
}

std::uint32_t ExtentAllocator::find_within(std::uint32_t first, std::uint32_t pages,
                                           std::uint32_t candidates) const {
  for (; first != kNone && candidates > 0; first = pages_[first].next, --candidates) {
    if ((pages_[first].tag & ~kFree) >= pages) return first;
  }
  return kNone;
}

std::uint32_t ExtentAllocator::find_above(SizeClass size_class) const {
  const auto [level, subclass] = size_class;
  // Two shifts, since a shift by 64 (or by 32, below) has no meaning in C++.
  const std::uint64_t in_level = subclasses_nonempty_[level] & (~0ULL << subclass << 1U);
  if (in_level != 0) return heads_[level][static_cast<std::uint32_t>(std::countr_zero(in_level))];
  const std::uint32_t levels = levels_nonempty_ & (~0U << level << 1U);
  if (levels == 0) return kNone;
  const auto above = static_cast<std::uint32_t>(std::countr_zero(levels));
  return heads_[above][static_cast<std::uint32_t>(std::countr_zero(subclasses_nonempty_[above]))];
}

void ExtentAllocator::insert_free(std::uint32_t first, std::uint32_t pages) {
  const auto [level, subclass] = class_of(pages);
  std::uint32_t& head = heads_[level][subclass];
  pages_[first].next = head;
  pages_[first].previous = kNone;
  if (head != kNone) pages_[head].previous = first;
  head = first;
  pages_[first].tag = pages | kFree;
  pages_[first + pages - 1].tag = pages | kFree;
  note_written(first);
  note_written(first + pages - 1);
  subclasses_nonempty_[level] |= 1ULL << subclass;
  levels_nonempty_ |= 1U << level;
  pages_free_ += pages;
}

// Of free runs only: every other entry that is written was the first or last of one before.
void ExtentAllocator::note_written(std::uint32_t page) {
  const std::uint64_t first_byte = page * std::uint64_t{sizeof(Page)};
  for (const std::uint64_t byte : {first_byte, first_byte + sizeof(Page) - 1}) {
    if (written_[byte / kPageBytes]) continue;
    written_[byte / kPageBytes] = true;
    ++written_pages_;
  }
}

std::uint64_t ExtentAllocator::metadata_bytes() const {
  return written_pages_ * kPageBytes;
}

void ExtentAllocator::remove_free(std::uint32_t first, std::uint32_t pages) {
  const auto [level, subclass] = class_of(pages);
  const std::uint32_t next = pages_[first].next;
  const std::uint32_t previous = pages_[first].previous;
  if (next != kNone) pages_[next].previous = previous;
  if (previous != kNone) {
    pages_[previous].next = next;
  } else {
    heads_[level][subclass] = next;
    if (next == kNone) {
      subclasses_nonempty_[level] &= ~(1ULL << subclass);
      if (subclasses_nonempty_[level] == 0) levels_nonempty_ &= ~(1U << level);
    }
  }
  pages_[first].tag = 0;
  pages_[first + pages - 1].tag = 0;
  pages_free_ -= pages;
}

void ExtentAllocator::validate() const {
  const std::uint64_t in_runs = validate_runs();
  const std::uint64_t in_lists = validate_lists();
  if (in_runs != pages_free_) broken("free pages miscounted", in_runs);
  if (in_lists != pages_free_) broken("a free run is in no list: listed pages end", in_lists);
}

// Walks the arena run by run; returns the number of free pages.
std::uint64_t ExtentAllocator::validate_runs() const {
  std::uint64_t free_pages = 0;
  bool after_free = false;
  for (std::uint64_t first = 0; first < pages_total_;) {
    const std::uint32_t tag = pages_[first].tag;
    const std::uint32_t length = tag & ~kFree;
    const bool is_free = (tag & kFree) != 0;
    if (length == 0 || first + length > pages_total_) broken("a run of a wrong length", first);
    if (is_free && after_free) broken("two free runs that were not merged", first);
    const std::uint64_t last = first + length - 1;
    const std::uint32_t tag_last = is_free || length == 1 ? tag : 0;
    if (pages_[last].tag != tag_last) broken("first and last page disagree", first);
    for (std::uint64_t page = first + 1; page < last; ++page) {
      if (pages_[page].tag != 0) broken("a tag inside a run", page);
    }
    if (is_free) free_pages += length;
    after_free = is_free;
    first += length;
  }
  return free_pages;
}

// Walks the class lists; returns the number of pages in them.
std::uint64_t ExtentAllocator::validate_lists() const {
  std::uint64_t listed = 0;
  for (std::uint32_t level = 0; level < kLevels; ++level) {
    const bool level_bit = ((levels_nonempty_ >> level) & 1U) != 0;
    if (level_bit != (subclasses_nonempty_[level] != 0)) broken("a stale level bit", level);
    for (std::uint32_t subclass = 0; subclass < kSubclasses; ++subclass) {
      const std::uint32_t head = heads_[level][subclass];
      const bool subclass_bit = ((subclasses_nonempty_[level] >> subclass) & 1ULL) != 0;
      if (subclass_bit != (head != kNone)) broken("a stale class bit", subclass);
      std::uint32_t previous = kNone;
      for (std::uint32_t first = head; first != kNone; first = pages_[first].next) {
        const std::uint32_t length = pages_[first].tag & ~kFree;
        const auto [own_level, own_subclass] = class_of(length);
        if ((pages_[first].tag & kFree) == 0) broken("an allocated run in a free list", first);
        if (own_level != level || own_subclass != subclass) broken("a run in a wrong list", first);
        if (pages_[first].previous != previous) broken("a broken link", first);
        previous = first;
        listed += length;
        if (listed > pages_total_) broken("a list without an end", first);
      }
    }
  }
  return listed;
}

}  // namespace penstock
