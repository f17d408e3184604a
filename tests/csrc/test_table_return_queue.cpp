// Handles that die on other threads, alone and under a table. Meant for ThreadSanitizer.
#include <poll.h>

#include <array>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "check.hpp"
#include "core/return_queue.hpp"
#include "core/table.hpp"

namespace penstock {
namespace {

constexpr std::uint32_t kThreads = 4;
constexpr std::uint32_t kEach = 5000;

bool readable(int fd) {
  pollfd polled{fd, POLLIN, 0};
  return poll(&polled, 1, 0) == 1;
}

std::unique_ptr<ReturnQueue::Return> returned(std::uint64_t number) {
  return std::make_unique<ReturnQueue::Return>(ReturnQueue::Return::What::lease,
                                               Id{number, ~number}, number, nullptr);
}

TEST_CASE(nothing_is_lost_or_doubled_between_many_threads_and_one) {
  ReturnQueue queue;
  std::atomic<std::uint32_t> pushing = kThreads;
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&queue, &pushing, t] {
      for (std::uint32_t i = 0; i < kEach; ++i) queue.push(returned(t * kEach + i));
      --pushing;
    });
  }
  std::vector<int> seen(kThreads * kEach);
  std::uint32_t drained = 0;
  const auto drain = [&] {
    drained += queue.drain([&](const ReturnQueue::Return& one) {
      CHECK_EQ(one.id.words[1], ~one.owner);
      ++seen[one.owner];
    });
  };
  while (pushing > 0) drain();
  for (std::thread& thread : threads) thread.join();
  drain();
  CHECK_EQ(drained, kThreads * kEach);
  for (const int times : seen) CHECK_EQ(times, 1);
  CHECK(queue.empty());
}

TEST_CASE(the_event_tells_of_everything_that_waits) {
  ReturnQueue queue;
  CHECK(!readable(queue.event_fd()));
  for (int round = 0; round < 3; ++round) {
    queue.push(returned(1));
    queue.push(returned(2));
    CHECK(readable(queue.event_fd()));
    CHECK_EQ(queue.drain([](const ReturnQueue::Return&) {}), 2U);
    CHECK(!readable(queue.event_fd()));
  }
}

TEST_CASE(what_was_never_drained_is_freed_with_the_queue) {
  auto queue = std::make_shared<ReturnQueue>();
  for (std::uint64_t i = 0; i < 100000; ++i) queue->push(returned(i));
  LeaseHandle outlives(queue, returned(7));
  queue.reset();
}

TEST_CASE(leases_of_a_table_end_when_their_handles_die_elsewhere) {
  constexpr std::uint32_t kChunks = 64;
  Table table({.arena_bytes = kChunks * kPageBytes,
               .objects_max = kChunks,
               .quarantine_bytes_max = 0,
               .leases_max = 2 * kChunks});
  const std::uint16_t geometry = table.add_geometry({Group{HitRule::full, 0, {4096}, {}}});
  table.attach(1, 1);
  const std::array<std::uint16_t, 1> slots = {0};
  for (int round = 0; round < 20; ++round) {
    std::vector<std::vector<LeaseHandle>> handles(kThreads);
    for (std::uint64_t i = 0; i < kChunks; ++i) {
      const Key key{i, 1, 2, 3};
      const Id lease{i + 1, 0};
      const auto reserved = table.reserve(KeyBatch(std::as_bytes(std::span(&key, 1))),
                                          {{}, geometry, slots, 0, lease, 1, 0, 1e9});
      CHECK_EQ(reserved.answers[0], Answer::granted);
      handles[i % kThreads].push_back(table.lease_handle(lease, 1));
    }
    std::atomic<std::uint32_t> dying = kThreads;
    std::vector<std::thread> threads;
    for (std::vector<LeaseHandle>& mine : handles) {
      threads.emplace_back([&dying, doomed = std::move(mine)]() mutable {
        doomed.clear();
        --dying;
      });
    }
    while (dying > 0) static_cast<void>(table.free_bytes());
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(table.free_bytes(), kChunks * kPageBytes);
    table.validate();
  }
  CHECK_EQ(table.statistics().returned_handles, 20U * kChunks);
}

TEST_CASE(another_thread_than_the_first_callers_is_refused) {
  Table table({.arena_bytes = 4096, .objects_max = 1});
  table.validate();
  bool refused = false;
  std::thread([&] {
    try {
      static_cast<void>(table.free_bytes());
    } catch (const WrongThread&) {
      refused = true;
    }
  }).join();
  CHECK(refused);
}

}  // namespace
}  // namespace penstock

CHECK_MAIN()
