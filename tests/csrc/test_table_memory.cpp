// What the table says its records take is what the kernel says it takes.
#include <unistd.h>

#include <array>
#include <fstream>
#include <span>
#include <vector>

#include "check.hpp"
#include "core/table.hpp"

namespace penstock {
namespace {

constexpr std::uint32_t kBatch = 256;
constexpr std::uint32_t kObjects = 200 * kBatch;
constexpr std::array<std::uint16_t, 1> kSlot = {0};
// Sanitizers take memory of their own for everything that is touched.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr double kStatedPartMin = 0;
#else
constexpr double kStatedPartMin = 0.9;
#endif

std::uint64_t resident_bytes() {
  std::uint64_t whole_pages = 0;
  std::uint64_t resident_pages = 0;
  std::ifstream("/proc/self/statm") >> whole_pages >> resident_pages;
  return resident_pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

void write(Table& table, std::uint32_t batch, std::uint32_t runs) {
  std::vector<Key> keys;
  for (std::uint64_t i = 0; i < kBatch; ++i) keys.push_back({batch, i, 2, 3});
  const std::vector<std::uint64_t> digests(kBatch);
  const std::vector<std::uint64_t> run_digests(runs > 1 ? kBatch * runs : 0);
  const Id lease{batch, 1};
  table.reserve(KeyBatch(std::as_bytes(std::span(keys))), {{}, 0, kSlot, 0, lease, 1, 0, 1e9});
  table.commit(lease, {.session = 1,
                       .all = true,
                       .indices = {},
                       .digests = digests,
                       .runs = run_digests,
                       .now = 0});
}

struct Measured {
  double stated;  // bytes an object
  double real;
};

Measured measure(std::uint32_t pages, std::uint32_t runs) {
  Table table({.arena_bytes = std::uint64_t{kObjects} * pages * kPageBytes,
               .objects_max = kObjects,
               .quarantine_bytes_max = kPageBytes});
  table.add_geometry({Group{HitRule::full, 0, {pages * kPageBytes}, {runs}}});
  table.attach(1, 1);
  const std::uint64_t before = resident_bytes();
  for (std::uint32_t batch = 0; batch < kObjects / kBatch; ++batch) write(table, batch, runs);
  const double real = static_cast<double>(resident_bytes() - before) / kObjects;
  CHECK_EQ(table.statistics().objects, kObjects);
  return {static_cast<double>(table.statistics().metadata_bytes) / kObjects, real};
}

TEST_CASE(stated_memory_is_within_a_tenth_of_what_the_process_grows_by) {
  for (const std::uint32_t pages : {1U, 16U, 512U}) {
    for (const std::uint32_t runs : {1U, 64U}) {
      const Measured measured = measure(pages, runs);
      if (measured.stated < kStatedPartMin * measured.real ||
          measured.stated > 1.1 * measured.real) {
        check::fail(__FILE__, __LINE__,
                    std::to_string(pages) + " pages, " + std::to_string(runs) + " runs: stated " +
                        std::to_string(measured.stated) + " bytes an object, real " +
                        std::to_string(measured.real));
      }
    }
  }
}

}  // namespace
}  // namespace penstock

CHECK_MAIN()
