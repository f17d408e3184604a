// Arrays that take address space at once and memory as they are touched.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <new>
#include <type_traits>

namespace penstock {

// `size` elements of T, all bytes zero at first, which must be a valid T. Never moves and never
// grows, so a table built on it is never rehashed and no call of it ever pays for a copy of the
// whole.
template <typename T>
class MappedArray {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  // Throws std::bad_alloc when the address space cannot be had.
  explicit MappedArray(std::size_t size) : size_(size) {
    if (size == 0) return;
    void* memory = mmap(nullptr, size * sizeof(T), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    // A huge page would back two megabytes of a sparse index for one entry. Kernels without huge
    // pages refuse the advice, which is as good.
    static_cast<void>(madvise(memory, size * sizeof(T), MADV_NOHUGEPAGE));
    data_ = static_cast<T*>(memory);
  }
  ~MappedArray() {
    if (data_ != nullptr) munmap(static_cast<void*>(data_), size_ * sizeof(T));
  }
  MappedArray(const MappedArray&) = delete;
  MappedArray& operator=(const MappedArray&) = delete;
  MappedArray(MappedArray&&) = delete;
  MappedArray& operator=(MappedArray&&) = delete;

  [[nodiscard]] T& operator[](std::size_t index) { return data_[index]; }
  [[nodiscard]] const T& operator[](std::size_t index) const { return data_[index]; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] const T* data() const { return data_; }  // null when empty

  // Backs these elements with memory, without changing them, so that writing to them later meets no
  // page fault. What lies beyond the end is left out.
  void touch(std::size_t first, std::size_t count) {
    constexpr std::size_t kTouchBytes = 4096;
    if (first >= size_ || count == 0) return;
    auto* const start = reinterpret_cast<volatile unsigned char*>(data_ + first);
    const std::size_t bytes = std::min(count, size_ - first) * sizeof(T);
    for (std::size_t at = 0; at < bytes; at += kTouchBytes) start[at] = start[at];
    start[bytes - 1] = start[bytes - 1];
  }

  // Brings an element's cache line on its way.
  void prefetch(std::size_t index) const { __builtin_prefetch(data_ + index, 1); }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

}  // namespace penstock
