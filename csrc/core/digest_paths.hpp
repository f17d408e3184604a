// The ways to compute CRC-64/NVME, one function each. Private to the digest and its tests.
#pragma once

#include <cstddef>
#include <cstdint>

namespace penstock::digest {

/// Sixteen bytes a step by sixteen tables of 256 entries ("slicing", Kounavis and Berry 2005).
std::uint64_t update_table(std::uint64_t state, const std::byte* data, std::size_t bytes);

#if defined(__x86_64__)
/// Carry-less folding with four 128-bit registers. The CPU must have PCLMULQDQ.
std::uint64_t update_pclmul(std::uint64_t state, const std::byte* data, std::size_t bytes);

/// Carry-less folding with four 512-bit registers. The CPU must have VPCLMULQDQ and AVX-512.
std::uint64_t update_vpclmul512(std::uint64_t state, const std::byte* data, std::size_t bytes);
#endif

}  // namespace penstock::digest
