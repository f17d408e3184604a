// What the copy and the layout refuse, and that a refused copy has moved nothing.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "check.hpp"
#include "paged_twin.hpp"

using penstock::Copier;
using penstock::CopyRefused;
using penstock::CopyRequest;
using penstock::Direction;
using penstock::LayoutRecord;
using penstock::LayoutRefused;
using penstock::PagedLayout;
using twin::Cache;
using twin::Memory;

namespace {

/// Two objects of two blocks, all in order; each case spoils one thing.
struct Scene {
  Scene() : memory(2 * stride()) {
    for (std::uint64_t i = 0; i < 2; ++i) {
      request.objects.push_back(
          {.address = memory.address() + i * stride(), .bytes = cache.layout().object_bytes(2)});
    }
    request.block_ids = ids;
  }
  std::uint64_t stride() const { return (cache.layout().object_bytes(2) + 4095) / 4096 * 4096; }

  Cache cache{{}};
  Memory memory;
  std::vector<std::int64_t> ids{1, 2, 3, 4};
  CopyRequest request{.direction = Direction::to_paged,
                      .layout = &cache.layout(),
                      .objects = {},
                      .block_ids = {},
                      .skip_blocks = 0,
                      .layers = {.first = 0, .last = 3}};
};

void refused(const std::function<void(Scene&)>& spoil, Direction direction) {
  Scene scene;
  scene.request.direction = direction;
  scene.cache.memory().fill(1);
  scene.memory.fill(2);
  const auto paged = scene.cache.memory().copy();
  const auto objects = scene.memory.copy();
  spoil(scene);
  Copier copier({.threads = 2});
  CHECK_THROWS(copier.copy(scene.request), CopyRefused);
  CHECK(scene.cache.memory().copy() == paged);
  CHECK(scene.memory.copy() == objects);
}

void refused(const std::function<void(Scene&)>& spoil) {
  refused(spoil, Direction::to_objects);
  refused(spoil, Direction::to_paged);
}

void layout_refused(const std::function<void(LayoutRecord&)>& spoil) {
  const Memory memory(1 << 20);
  LayoutRecord record = Cache::record({}, memory.address());
  const PagedLayout good(record);
  spoil(record);
  CHECK_THROWS(PagedLayout(record), LayoutRefused);
}

}  // namespace

TEST_CASE(the_unspoiled_copy_is_accepted) {
  Scene scene;
  Copier copier({.threads = 2});
  CHECK_EQ(copier.copy(scene.request).size(), 2U * 3 * 2);
}

TEST_CASE(ids_outside_the_layout_are_refused) {
  refused([](Scene& s) { s.ids[3] = 11; });
  refused([](Scene& s) { s.ids[0] = -1; });
  refused([](Scene& s) { s.ids[2] = std::int64_t{1} << 40; });
}

TEST_CASE(a_skipped_id_is_not_looked_at) {
  Scene scene;
  scene.ids[0] = -1;
  scene.request.skip_blocks = 1;
  Copier copier({.threads = 1});
  CHECK_EQ(copier.copy(scene.request).size(), 12U);
}

TEST_CASE(writing_a_block_twice_is_refused_and_reading_it_twice_is_not) {
  refused([](Scene& s) { s.ids[3] = 1; }, Direction::to_paged);
  Scene scene;
  scene.ids[3] = 1;
  scene.request.direction = Direction::to_objects;
  Copier copier({.threads = 1});
  CHECK_EQ(copier.copy(scene.request).size(), 12U);
}

TEST_CASE(objects_out_of_place_are_refused) {
  refused([](Scene& s) { s.request.objects[1].address += 8; });
  refused([](Scene& s) { s.request.objects[1].address = s.request.objects[0].address; });
  refused([](Scene& s) { s.request.objects[1].address = s.request.objects[0].address + 64; });
  refused([](Scene& s) { s.request.objects[0].address = 0; });
  refused([](Scene& s) { s.request.objects[0].address = ~std::uint64_t{63}; });
  refused([](Scene& s) { s.request.objects[0].bytes -= 1; });
  refused([](Scene& s) { s.request.objects[0].bytes += 1; });
  refused([](Scene& s) { s.request.objects[0].address = s.cache.memory().address() + 128; });
  refused([](Scene& s) { s.request.objects.clear(); });
}

TEST_CASE(counts_that_do_not_fit_are_refused) {
  refused([](Scene& s) { s.request.block_ids = std::span(s.ids).first(3); });
  refused([](Scene& s) { s.request.block_ids = {}; });
  refused([](Scene& s) { s.request.skip_blocks = 5; });
  refused([](Scene& s) { s.request.layers = {.first = 0, .last = 4}; });
  refused([](Scene& s) { s.request.layers = {.first = 2, .last = 2}; });
  refused([](Scene& s) { s.request.layers = {.first = 3, .last = 1}; });
}

TEST_CASE(extents_outside_the_arena_are_refused) {
  const Memory arena(1 << 16);
  const std::span<const std::byte> all(arena.data(), arena.size());
  const auto resolve = [&](std::uint64_t offset, std::uint64_t bytes) {
    const std::vector<penstock::ObjectExtent> one{{.offset = offset, .bytes = bytes, .digest = 0}};
    return penstock::addresses_in(all, one);
  };
  CHECK_EQ(resolve(4096, 61440).at(0).address, arena.address() + 4096);
  CHECK_THROWS(resolve(64, 64), CopyRefused);
  CHECK_THROWS(resolve(4096, 61441), CopyRefused);
  CHECK_THROWS(resolve(1 << 17, 1), CopyRefused);
  CHECK_THROWS(resolve(4096, ~std::uint64_t{0}), CopyRefused);
}

TEST_CASE(layouts_that_cannot_be_are_refused) {
  layout_refused([](LayoutRecord& r) { r.layers = 0; });
  layout_refused([](LayoutRecord& r) { r.components = 3; });
  layout_refused([](LayoutRecord& r) { r.blocks = 0; });
  layout_refused([](LayoutRecord& r) { r.block_slots = 0; });
  layout_refused([](LayoutRecord& r) { r.heads = 0; });
  layout_refused([](LayoutRecord& r) { r.head_bytes = 0; });
  layout_refused([](LayoutRecord& r) { r.bases.pop_back(); });
  layout_refused([](LayoutRecord& r) { r.span_bytes.pop_back(); });
  layout_refused([](LayoutRecord& r) { r.bases[2] = 0; });
  layout_refused([](LayoutRecord& r) { r.bases[2] = ~std::uint64_t{4095}; });
  layout_refused([](LayoutRecord& r) { r.bases[2] = r.bases[1]; });
  layout_refused([](LayoutRecord& r) { r.span_bytes[5] -= 1; });
  layout_refused([](LayoutRecord& r) { r.s_head -= 1; });
  layout_refused([](LayoutRecord& r) { r.s_slot -= 1; });
  layout_refused([](LayoutRecord& r) { r.s_block -= 1; });
  layout_refused([](LayoutRecord& r) { r.s_block = ~std::uint64_t{0}; });
  layout_refused([](LayoutRecord& r) { r.blocks = ~std::uint64_t{0}; });
}

// Bases `distance` bytes apart: K and V of 5 blocks of 4 slots of 2 heads of 64 bytes.
static LayoutRecord two_bases(std::uint64_t address, std::uint64_t distance) {
  return {.bases = {address, address + distance},
          .span_bytes = {1 << 19, 1 << 19},
          .layers = 1,
          .components = 2,
          .blocks = 5,
          .block_slots = 4,
          .heads = 2,
          .head_bytes = 64,
          .s_block = 4096,
          .s_slot = 512,
          .s_head = 128};
}

TEST_CASE(pairs_that_share_bytes_are_refused_and_interleaved_ones_are_not) {
  const Memory memory(1 << 20);
  const auto every_byte_has_one_owner = [](const LayoutRecord& r) {
    std::vector<std::uint64_t> bytes;
    for (const std::uint64_t base : r.bases) {
      for (std::uint64_t i = 0; i < r.blocks * r.block_slots * r.heads; ++i) {
        const std::uint64_t slot = i / r.heads;
        const std::uint64_t run = base + i % r.heads * r.s_head + slot % r.block_slots * r.s_slot +
                                  slot / r.block_slots * r.s_block;
        for (std::uint64_t byte = 0; byte < r.head_bytes; ++byte) bytes.push_back(run + byte);
      }
    }
    std::ranges::sort(bytes);
    return std::ranges::adjacent_find(bytes) == bytes.end();
  };
  int refused = 0;
  int accepted = 0;
  for (std::uint64_t distance = 16; distance < 6 * 4096; distance += 16) {
    const LayoutRecord record = two_bases(memory.address(), distance);
    if (every_byte_has_one_owner(record)) {
      const PagedLayout interleaved(record);
      ++accepted;
    } else {
      CHECK_THROWS(PagedLayout(record), LayoutRefused);
      ++refused;
    }
  }
  CHECK(refused > 100 && accepted > 100);
}

TEST_CASE(a_dimension_of_one_needs_no_stride) {
  const Memory memory(1 << 20);
  LayoutRecord record = Cache::record({.heads = 1}, memory.address());
  record.s_head = 0;
  const PagedLayout layout(record);
  CHECK_EQ(layout.shape().slots, 1U);  // slots lie side by side: a block is one run
}

TEST_CASE(a_copier_needs_a_thread) {
  CHECK_THROWS(Copier({.threads = 0}), CopyRefused);
}

TEST_CASE(baselines_refuse_ranges_that_are_not_alike) {
  const Memory memory(4096);
  Copier copier({.threads = 1});
  const std::span<std::byte> all(memory.data(), memory.size());
  CHECK_THROWS(copier.baseline_memcpy(all.first(64), all.subspan(64, 128)), CopyRefused);
  CHECK_THROWS(copier.baseline_memcpy(all.first(128), all.subspan(64, 128)), CopyRefused);
  CHECK_THROWS(copier.baseline_streaming(all.subspan(8, 64), all.subspan(128, 64)), CopyRefused);
  memory.fill(1);
  copier.baseline_memcpy(all.first(1024), all.subspan(1024, 1024));
  copier.baseline_streaming(all.subspan(2048, 1024), all.subspan(1024, 1024));
  CHECK(std::equal(all.begin(), all.begin() + 1024, all.begin() + 2048));
}

// The sanitizers' own locks do not survive a fork beside starting threads; the C library's do.
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
TEST_CASE(a_forked_child_is_refused_and_can_let_go_of_the_copier) {
  auto copier = std::make_unique<Copier>(penstock::CopierOptions{.threads = 3});
  const pid_t child = ::fork();
  CHECK(child >= 0);
  if (child == 0) {
    ::alarm(10);
    Scene scene;
    int status = 1;
    try {
      copier->copy(scene.request);
    } catch (const CopyRefused&) {
      copier.reset();
      status = 0;
    }
    ::_exit(status);
  }
  int status = 0;
  CHECK_EQ(::waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  Scene scene;
  CHECK_EQ(copier->copy(scene.request).size(), 12U);
}
#endif

CHECK_MAIN()
