#if defined(__x86_64__)

#include "core/digest_fold.hpp"

#define KV_FUSED_TARGET KV_TARGET_VPCLMUL512

namespace penstock::kernels {
namespace {

struct Vector {
  static constexpr std::uint64_t kBytes = 64;
  using Register = __m512i;
  using Lanes = digest::Lanes512;

  KV_FUSED_TARGET static Register load(const std::byte* at) noexcept {
    return _mm512_loadu_si512(at);
  }
  KV_FUSED_TARGET static void store(std::byte* at, Register value) noexcept {
    _mm512_storeu_si512(at, value);
  }
  KV_FUSED_TARGET static void stream(std::byte* at, Register value) noexcept {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(at), value);
  }
  KV_FUSED_TARGET static Register multiplier(digest::FoldBy by) noexcept {
    return digest::make512(by);
  }
  KV_FUSED_TARGET static Register fold(Register lane, Register by, Register data) noexcept {
    return digest::fold512(lane, by, data);
  }
  KV_FUSED_TARGET static Lanes begin(std::uint64_t state) noexcept {
    return digest::begin_lanes512(state);
  }
  KV_FUSED_TARGET static std::uint64_t finish(const Lanes& lanes) noexcept {
    return digest::finish_lanes512(lanes);
  }
};

}  // namespace
}  // namespace penstock::kernels

#include "copy/fused.hpp"

namespace penstock::kernels {

TileKernel vpclmul512(Direction direction, Stores stores, const BlockShape& shape) {
  return fused(direction, stores, shape);
}

}  // namespace penstock::kernels

#endif
