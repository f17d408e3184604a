#if defined(__x86_64__)

#include "core/digest_fold.hpp"
#include "core/digest_paths.hpp"

namespace penstock::digest {

KV_TARGET_PCLMUL std::uint64_t update_pclmul(std::uint64_t state, const std::byte* data,
                                             std::size_t bytes) {
  if (bytes >= sizeof(Lanes128)) {
    Lanes128 lanes = begin_lanes128(state);
    const __m128i by = make128(fold_by(8 * sizeof(Lanes128)));
    for (; bytes >= sizeof(Lanes128); data += sizeof(Lanes128), bytes -= sizeof(Lanes128)) {
      const auto* next = reinterpret_cast<const __m128i*>(data);
      for (__m128i& lane : lanes.lane) {
        lane = fold128(lane, by, _mm_loadu_si128(next++));
      }
    }
    state = finish_lanes128(lanes);
  }
  if (bytes >= 16) {
    __m128i reg = begin128(state);
    const __m128i by = make128(fold_by(128));
    for (; bytes >= 16; data += 16, bytes -= 16) {
      reg = fold128(reg, by, _mm_loadu_si128(reinterpret_cast<const __m128i*>(data)));
    }
    state = finish128(reg);
  }
  return update_table(state, data, bytes);
}

KV_TARGET_VPCLMUL512 std::uint64_t update_vpclmul512(std::uint64_t state, const std::byte* data,
                                                     std::size_t bytes) {
  if (bytes >= sizeof(Lanes512)) {
    Lanes512 lanes = begin_lanes512(state);
    const __m512i by = make512(fold_by(8 * sizeof(Lanes512)));
    for (; bytes >= sizeof(Lanes512); data += sizeof(Lanes512), bytes -= sizeof(Lanes512)) {
      for (std::size_t i = 0; i < Lanes512::kCount; ++i) {
        lanes.lane[i] = fold512(lanes.lane[i], by, _mm512_loadu_si512(data + 64 * i));
      }
    }
    state = finish_lanes512(lanes);
  }
  return update_pclmul(state, data, bytes);
}

}  // namespace penstock::digest

#endif
