// Python buffers as spans of plain records. Shared by the binding tables.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace penstock::bind {

/// A contiguous buffer, held for as long as this lives. Make and destroy it with the GIL held.
class HeldBuffer {
 public:
  /// Raises ValueError (BufferError for one that is not writable as asked) naming `what`.
  static HeldBuffer reading(const pybind11::buffer& from, const char* what) {
    return HeldBuffer(from.request(false), what);
  }
  static HeldBuffer writing(const pybind11::buffer& from, const char* what) {
    return HeldBuffer(from.request(true), what);
  }

  [[nodiscard]] std::span<std::byte> bytes() const {
    return {static_cast<std::byte*>(info_.ptr),
            static_cast<std::size_t>(info_.size * info_.itemsize)};
  }

  /// A copy of the buffer as records of 64-bit integers, so that what is checked is what is used.
  /// The elements have one byte or eight, and are no floats.
  template <typename Record>
  [[nodiscard]] std::vector<Record> records() const {
    static_assert(std::is_trivially_copyable_v<Record>);
    static const std::string integers = "bBcqQlLnN";
    const std::string format = info_.format.substr(info_.format.find_first_not_of("<=@"));
    const bool integral = format.size() == 1 && integers.find(format) != std::string::npos &&
                          (info_.itemsize == 1 || info_.itemsize == 8);
    if (!integral || bytes().size() % sizeof(Record) != 0) {
      throw pybind11::value_error(
          what_ + " must be packed records of " + std::to_string(sizeof(Record)) +
          " bytes, as bytes or as a " + "buffer of 64-bit integers; given are " +
          std::to_string(bytes().size()) + " bytes of format '" + info_.format + "'");
    }
    std::vector<Record> copy(bytes().size() / sizeof(Record));
    if (!copy.empty()) {
      std::memcpy(copy.data(), info_.ptr, bytes().size());
    }
    return copy;
  }

 private:
  HeldBuffer(pybind11::buffer_info info, const char* what) : info_(std::move(info)), what_(what) {
    pybind11::ssize_t expected = info_.itemsize;
    for (pybind11::ssize_t axis = info_.ndim; axis-- > 0;) {
      const auto at = static_cast<std::size_t>(axis);
      if (info_.shape[at] > 1 && info_.strides[at] != expected) {
        throw pybind11::value_error(what_ + " must be contiguous");
      }
      expected *= info_.shape[at];
    }
  }

  pybind11::buffer_info info_;
  std::string what_;
};

}  // namespace penstock::bind
