// Speed and fragmentation of the extent allocator. Prints one JSON object; tests/bench/l1.py
// compiles and runs it.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <random>
#include <vector>

#include "core/extent_allocator.hpp"

namespace {

using penstock::ExtentAllocator;
using penstock::kPageBytes;

constexpr std::uint64_t kMiB = 1024ULL * 1024;
constexpr std::uint64_t kGiB = 1024 * kMiB;

struct Run {
  std::uint32_t first;
  std::uint32_t pages;
};

// Nanoseconds for one release of a random extent and one allocation in its place, of sizes drawn
// from `sizes` (pages), in an arena kept nine tenths full and well torn.
double pair_ns(std::uint64_t arena_bytes, const std::vector<std::uint32_t>& sizes, int pairs) {
  std::mt19937 random(1);  // NOLINT(bugprone-random-generator-seed): the same arena every time
  ExtentAllocator allocator(arena_bytes);
  std::vector<Run> runs;
  while (allocator.pages_free() > allocator.pages_total() / 10) {
    const std::uint32_t pages = sizes[random() % sizes.size()];
    const auto first = allocator.allocate(pages);
    if (first) runs.push_back({*first, pages});
  }
  struct Step {
    std::uint32_t victim;
    std::uint32_t pages;
  };
  std::vector<Step> steps(static_cast<std::size_t>(pairs));
  for (auto& step : steps) {
    step = {static_cast<std::uint32_t>(random() % runs.size()), sizes[random() % sizes.size()]};
  }
  const auto start = std::chrono::steady_clock::now();
  for (const auto& step : steps) {
    Run& run = runs[step.victim];
    if (run.pages != 0) allocator.release(run.first, run.pages);
    const auto first = allocator.allocate(step.pages);
    run = first ? Run{*first, step.pages} : Run{0, 0};
  }
  const auto elapsed = std::chrono::steady_clock::now() - start;
  return std::chrono::duration<double, std::nano>(elapsed).count() / pairs;
}

struct Fragmentation {
  double used_fraction_median;  // of the arena, when an allocation first finds no room
  double used_fraction_min;
  double evictions_per_allocation;  // 1.0 when each new object needs the room of one old one
};

// A full cache: objects of two models come in bursts (a prompt is a run of chunks of one model),
// and when there is no room the oldest objects go, one by one, until there is.
Fragmentation fragmentation(std::uint64_t arena_bytes, std::uint32_t pages_a, std::uint32_t pages_b,
                            int allocations) {
  std::mt19937 random(2);  // NOLINT(bugprone-random-generator-seed): as above
  ExtentAllocator allocator(arena_bytes);
  std::deque<Run> oldest_first;
  std::vector<double> used;
  std::uint64_t evictions = 0;
  std::uint64_t counted = 0;
  std::uint32_t pages = pages_a;
  std::uint32_t burst = 0;
  for (int i = 0; i < allocations; ++i) {
    if (burst == 0) {
      burst = 1 + random() % 64;
      pages = random() % 2 == 0 ? pages_a : pages_b;
    }
    --burst;
    auto first = allocator.allocate(pages);
    if (!first) {
      const auto free_fraction = static_cast<double>(allocator.pages_free()) /
                                 static_cast<double>(allocator.pages_total());
      if (i > allocations / 2) used.push_back(1.0 - free_fraction);
    }
    for (; !first; first = allocator.allocate(pages)) {
      // A conversation that is used again outlives others: one victim in four is not the oldest.
      const std::size_t index = random() % 4 == 0 ? random() % oldest_first.size() : 0;
      const Run victim = oldest_first[index];
      oldest_first.erase(oldest_first.begin() + static_cast<std::ptrdiff_t>(index));
      allocator.release(victim.first, victim.pages);
      if (i > allocations / 2) ++evictions;
    }
    if (i > allocations / 2) ++counted;
    oldest_first.push_back({*first, pages});
  }
  std::sort(used.begin(), used.end());
  return {used[used.size() / 2], used.front(),
          static_cast<double>(evictions) / static_cast<double>(counted)};
}

}  // namespace

int main() {
  // Sizes in pages of one 256-token chunk: layers x 2 x kv heads x head size x 2 bytes x 256 /
  // 4096.
  const std::uint32_t llama_3_8b = 32 * 2 * 8 * 128 * 2 * 256 / 4096;    // 32 MiB
  const std::uint32_t qwen_2_5_14b = 48 * 2 * 8 * 128 * 2 * 256 / 4096;  // 48 MiB
  const std::uint32_t qwen_2_5_7b = 28 * 2 * 4 * 128 * 2 * 256 / 4096;   // 14 MiB
  const double objects = pair_ns(40 * kGiB, {llama_3_8b, qwen_2_5_14b}, 200000);
  const double small = pair_ns(4 * kGiB, {1, 2, 3, 5, 8, 13, 100, 516}, 1000000);
  const Fragmentation two = fragmentation(40 * kGiB, llama_3_8b, qwen_2_5_14b, 40000);
  const Fragmentation odd = fragmentation(40 * kGiB, qwen_2_5_7b, qwen_2_5_14b, 40000);
  std::printf(
      "{\"alloc_free_ns\": %.1f, \"alloc_free_small_ns\": %.1f, "
      "\"llama_qwen14_used\": %.4f, \"llama_qwen14_used_min\": %.4f, "
      "\"llama_qwen14_evictions_per_alloc\": %.3f, \"qwen7_qwen14_used\": %.4f, "
      "\"qwen7_qwen14_used_min\": %.4f, \"qwen7_qwen14_evictions_per_alloc\": %.3f}\n",
      objects, small, two.used_fraction_median, two.used_fraction_min, two.evictions_per_allocation,
      odd.used_fraction_median, odd.used_fraction_min, odd.evictions_per_allocation);
  return 0;
}
