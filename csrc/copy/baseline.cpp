// Plain copies with the copier's own threads: what its speed is compared with, and nothing else.
#include <algorithm>
#include <cstring>

#include "copy/copier.hpp"
#include "core/cpu.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace penstock {
namespace {

constexpr std::size_t kLineBytes = 64;

void require_separate(std::span<const std::byte> destination, std::span<const std::byte> source) {
  if (destination.size() != source.size()) {
    throw CopyRefused("a plain copy needs two ranges of one size");
  }
  if (destination.data() < source.data() + source.size() &&
      source.data() < destination.data() + destination.size()) {
    throw CopyRefused("a plain copy needs two ranges that do not overlap");
  }
}

#if defined(__x86_64__)
void stream_sse2(std::byte* destination, const std::byte* source, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += sizeof(__m128i)) {
    const __m128i value = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + at));
    _mm_stream_si128(reinterpret_cast<__m128i*>(destination + at), value);
  }
  _mm_sfence();
}

KV_TARGET_VPCLMUL512 void stream_512(std::byte* destination, const std::byte* source,
                                     std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += sizeof(__m512i)) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(destination + at),
                        _mm512_loadu_si512(source + at));
  }
  _mm_sfence();
}
#endif

}  // namespace

void Copier::baseline_memcpy(std::span<std::byte> destination, std::span<const std::byte> source) {
  require_usable();
  require_separate(destination, source);
  // One piece for each thread: memcpy chooses its way by the size it is given.
  const std::size_t piece = (source.size() + threads() - 1) / threads();
  pool_.run(threads(), threads(), [&](std::size_t index) {
    const std::size_t first = std::min(index * piece, source.size());
    std::memcpy(destination.data() + first, source.data() + first,
                std::min(piece, source.size() - first));
  });
}

void Copier::baseline_streaming(std::span<std::byte> destination,
                                std::span<const std::byte> source) {
  require_usable();
  require_separate(destination, source);
#if defined(__x86_64__)
  if (reinterpret_cast<std::uint64_t>(destination.data()) % kLineBytes != 0 ||
      source.size() % kLineBytes != 0) {
    throw CopyRefused("a streaming copy needs a destination and a size that are multiples of 64");
  }
  constexpr std::size_t kPieceBytes = std::size_t{1} << 20;
  const auto stream = instructions_ == Instructions::vpclmul512 ? stream_512 : stream_sse2;
  pool_.run((source.size() + kPieceBytes - 1) / kPieceBytes, threads(), [&](std::size_t index) {
    const std::size_t first = index * kPieceBytes;
    stream(destination.data() + first, source.data() + first,
           std::min(kPieceBytes, source.size() - first));
  });
#else
  throw CopyRefused("this CPU has no streaming stores that are used here");
#endif
}

}  // namespace penstock
