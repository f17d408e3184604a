#include "core/numa.hpp"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>
#include <fstream>
#include <iterator>

namespace penstock {
namespace {

constexpr int kNodeMax = 1023;  // the kernel's own bound (CONFIG_NODES_SHIFT <= 10)

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string allowed_list() {
  static constexpr std::string_view kField = "Mems_allowed_list:";
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(kField)) return line.substr(line.find_first_not_of(" \t", kField.size()));
  }
  return {};
}

// Reads a number off the front of `text`; negative when there is none.
int take_number(std::string_view& text) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return -1;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

bool take(std::string_view& text, char wanted) {
  if (!text.starts_with(wanted)) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

std::vector<int> parse_node_list(std::string_view list) {
  std::vector<int> nodes;
  do {
    const int first = take_number(list);
    const int last = take(list, '-') ? take_number(list) : first;
    if (first < 0 || last < first || last > kNodeMax) return {};
    for (int node = first; node <= last; ++node) nodes.push_back(node);
  } while (take(list, ','));
  if (!list.empty()) return {};
  return nodes;
}

std::vector<int> usable_numa_nodes() {
  const auto with_memory = parse_node_list(first_line("/sys/devices/system/node/has_memory"));
  const auto allowed = parse_node_list(allowed_list());
  std::vector<int> nodes;
  std::set_intersection(with_memory.begin(), with_memory.end(), allowed.begin(), allowed.end(),
                        std::back_inserter(nodes));
  return nodes;
}

std::error_code interleave(std::span<std::byte> memory, std::span<const int> nodes) {
  constexpr unsigned kBits = sizeof(unsigned long) * CHAR_BIT;
  constexpr unsigned long kMaskBits = kNodeMax + 2;  // the kernel counts one bit more than it reads
  std::vector<unsigned long> mask(kMaskBits / kBits);
  for (const int node : nodes)
    mask[static_cast<std::size_t>(node / kBits)] |= 1UL << (node % kBits);
  const long result =
      syscall(SYS_mbind, memory.data(), memory.size(), MPOL_INTERLEAVE, mask.data(), kMaskBits, 0U);
  return result == 0 ? std::error_code() : std::error_code(errno, std::generic_category());
}

NumaPlacement place(std::span<std::byte> memory) {
  const auto nodes = usable_numa_nodes();
  const int count = std::max<int>(1, static_cast<int>(nodes.size()));
  if (nodes.empty()) {
    return {count,
            "the kernel does not say which memory nodes there are, so pages lie where they are "
            "first touched"};
  }
  if (nodes.size() == 1) {
    return {count, "this process may use one memory node only, so there is nothing to spread over"};
  }
  if (const auto error = interleave(memory, nodes)) {
    return {count, "the kernel refused to interleave the arena over " + std::to_string(count) +
                       " memory nodes (" + error.message() +
                       "), so pages lie where they are first touched; in a container, allow mbind"};
  }
  return {count, "interleaved over " + std::to_string(count) + " memory nodes"};
}

}  // namespace penstock
