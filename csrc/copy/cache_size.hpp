// How much the last-level cache holds.
#pragma once

#include <cstdint>

namespace penstock {

/// The largest cache that the kernel names for CPU 0, in bytes; 32 MiB where it names none.
/// sysconf is not asked: on some CPUs it tells the sum over all of the machine's caches.
[[nodiscard]] std::uint64_t last_level_cache_bytes();

}  // namespace penstock
