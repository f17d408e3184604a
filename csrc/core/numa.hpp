// Where the arena's pages lie on a machine with several memory nodes.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace penstock {

struct NumaPlacement {
  int nodes;           // memory nodes this process may use; >= 1
  std::string reason;  // one sentence: how the pages are spread, or why they are not
};

// The numbers in a kernel list such as "0-1,4"; nothing for an empty or malformed one.
[[nodiscard]] std::vector<int> parse_node_list(std::string_view list);

// The nodes that have memory and that this process may allocate on.
[[nodiscard]] std::vector<int> usable_numa_nodes();

// Asks the kernel to take the pages of `memory`, not yet backed, from `nodes` in turn. The policy
// belongs to the shared file, so it holds whichever process touches a page first.
[[nodiscard]] std::error_code interleave(std::span<std::byte> memory, std::span<const int> nodes);

// Interleaves `memory` where there is more than one node: any engine on any socket reads it, so an
// even spread uses every memory channel and is nobody's worst case.
[[nodiscard]] NumaPlacement place(std::span<std::byte> memory);

}  // namespace penstock
