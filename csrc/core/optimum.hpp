// What no policy can exceed.
#pragma once

#include <cstdint>
#include <span>

namespace penstock {

// How many of `references` an all-knowing cache of `capacity` equal objects would hit: it keeps
// what is asked for again soonest, and does not take in what is not worth it (Belady: "A study of
// replacement algorithms for a virtual-storage computer", 1966, with bypass). It need not keep
// prefixes, so for prompts it is an upper bound. Objects are numbered from 0, densely. Takes time
// n log n and 24 bytes for each reference or so.
[[nodiscard]] std::uint64_t optimum_hits(std::span<const std::uint32_t> references,
                                         std::uint32_t capacity);

}  // namespace penstock
