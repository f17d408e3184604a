#if defined(__x86_64__)

#include "core/digest_fold.hpp"

#define KV_FUSED_TARGET KV_TARGET_PCLMUL

namespace penstock::kernels {
namespace {

struct Vector {
  static constexpr std::uint64_t kBytes = 16;
  using Register = __m128i;
  using Lanes = digest::Lanes128;

  KV_FUSED_TARGET static Register load(const std::byte* at) noexcept {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  }
  KV_FUSED_TARGET static void store(std::byte* at, Register value) noexcept {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), value);
  }
  KV_FUSED_TARGET static void stream(std::byte* at, Register value) noexcept {
    _mm_stream_si128(reinterpret_cast<__m128i*>(at), value);
  }
  KV_FUSED_TARGET static Register multiplier(digest::FoldBy by) noexcept {
    return digest::make128(by);
  }
  KV_FUSED_TARGET static Register fold(Register lane, Register by, Register data) noexcept {
    return digest::fold128(lane, by, data);
  }
  KV_FUSED_TARGET static Lanes begin(std::uint64_t state) noexcept {
    return digest::begin_lanes128(state);
  }
  KV_FUSED_TARGET static std::uint64_t finish(const Lanes& lanes) noexcept {
    return digest::finish_lanes128(lanes);
  }
};

}  // namespace
}  // namespace penstock::kernels

#include "copy/fused.hpp"

namespace penstock::kernels {

TileKernel pclmul(Direction direction, Stores stores, const BlockShape& shape) {
  return fused(direction, stores, shape);
}

}  // namespace penstock::kernels

#endif
