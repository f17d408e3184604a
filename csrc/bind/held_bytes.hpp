// The bytes of many Python objects, held together.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <span>
#include <vector>

namespace penstock::bind {

/// Contiguous buffers, held for as long as this lives. Make and destroy it with the GIL held.
class HeldBytes {
 public:
  /// Raises BufferError, TypeError for what is not contiguous, or may not be used as asked.
  HeldBytes(const std::vector<pybind11::object>& from, int flags) : views_(from.size()) {
    for (const pybind11::object& one : from) {
      if (PyObject_GetBuffer(one.ptr(), &views_[count_], flags) != 0) {
        release();
        throw pybind11::error_already_set();
      }
      ++count_;
    }
  }
  ~HeldBytes() { release(); }
  HeldBytes(const HeldBytes&) = delete;
  HeldBytes& operator=(const HeldBytes&) = delete;
  HeldBytes(HeldBytes&&) = delete;
  HeldBytes& operator=(HeldBytes&&) = delete;

  [[nodiscard]] std::span<const std::byte> operator[](std::size_t at) const {
    return {static_cast<const std::byte*>(views_[at].buf),
            static_cast<std::size_t>(views_[at].len)};
  }

 private:
  void release() noexcept {
    while (count_ > 0) PyBuffer_Release(&views_[--count_]);
  }

  std::vector<Py_buffer> views_;  // which stay where they are
  std::size_t count_ = 0;         // so many of them are held
};

}  // namespace penstock::bind
