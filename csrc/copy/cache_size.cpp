#include "copy/cache_size.hpp"

#include <algorithm>
#include <fstream>
#include <string>

namespace penstock {
namespace {

constexpr std::uint64_t kCacheBytesGuess = std::uint64_t{32} << 20;

}  // namespace

std::uint64_t last_level_cache_bytes() {
  std::uint64_t largest = 0;
  for (int index = 0;; ++index) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) +
                       "/size");
    std::uint64_t size = 0;
    char unit = 0;
    if (!(file >> size >> unit)) {
      break;
    }
    largest = std::max(largest, size << (unit == 'M' ? 20 : 10));  // "32768K"
  }
  return largest != 0 ? largest : kCacheBytesGuess;
}

}  // namespace penstock
