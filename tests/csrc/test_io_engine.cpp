// The I/O engine by io_uring and by threads: the same jobs, the same answers.
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <map>
#include <numeric>

#include "check.hpp"
#include "io/engine.hpp"
#include "io/write_file.hpp"
#include "io_fixture.hpp"

namespace penstock::io {
namespace {

TEST_CASE(what_is_written_is_read_at_offsets_beyond_four_gib) {
  for_each_backend([](Backend backend) {
    // A20: offsets are of 64 bits.
    Folder folder;
    const int fd = folder.open("sparse", O_RDWR | O_CREAT);
    Machine machine(backend);
    constexpr std::uint64_t kFar = (6ULL << 30) + 4096;
    Bytes written = pattern(100'000, 1);
    Bytes read(written.size() + 7);
    CHECK_EQ(machine.run(writing(fd, kFar, {&written})), std::int64_t(written.size()));
    CHECK_EQ(machine.run(std::make_unique<CallJob>(Op::sync_data, fd)), 0);
    CHECK_EQ(machine.run(reading(fd, kFar, {&read})), std::int64_t(written.size()));
    CHECK(std::equal(written.begin(), written.end(), read.begin()));
    CHECK_EQ(read.back(), std::byte{0});
    CHECK_EQ(folder.size("sparse"), std::int64_t(kFar + written.size()));
    close(fd);
  });
}

TEST_CASE(more_buffers_than_the_system_takes_at_once_are_moved_all) {
  for_each_backend([](Backend backend) {
    Folder folder;
    Machine machine(backend);
    std::vector<Bytes> pieces;
    for (unsigned i = 0; i < 3000; ++i) pieces.push_back(pattern(1 + i % 61, i));
    std::vector<Bytes> back;
    for (const Bytes& piece : pieces) back.emplace_back(piece.size());
    CHECK(machine.run(writing_file(folder, "many", pointers(pieces), Caching::buffered)) > 0);
    CHECK_EQ(machine.run(reading_file(folder, "many", pointers(back), Caching::buffered)),
             folder.size("many"));
    CHECK(pieces == back);
  });
}

TEST_CASE(a_direct_file_ends_where_its_bytes_end_and_the_last_block_shows_nobody_elses) {
  for_each_backend([](Backend backend) {
    Folder folder;
    Machine machine(backend);
    for (const std::uint64_t bytes : {4096ULL, 4097ULL, 12287ULL, 100'000ULL, 1ULL << 20, 0ULL}) {
      Blocks source((bytes + 4095) / 4096);
      source.fill(0x5a);
      auto job = writing_file(folder, "object", {&source}, Caching::direct, bytes);
      CHECK_EQ(machine.run(std::move(job)), std::int64_t(bytes));
      CHECK_EQ(folder.size("object"), std::int64_t(bytes));
      Blocks target(source.blocks() + 1);
      target.fill(0x11);
      CHECK_EQ(machine.run(reading_file(folder, "object", {&target}, Caching::direct)),
               std::int64_t(bytes));
      CHECK(std::memcmp(target.data(), source.data(), bytes) == 0);
      CHECK_EQ(target.data()[target.size() - 1], std::byte{0x11});  // no block beyond the last
      CHECK(folder.names() == std::vector<std::string>{"object"});
    }
  });
}

TEST_CASE(a_last_block_is_padded_with_zeros) {
  Blocks source(2);
  source.fill(0x77);
  const WholeBlocks whole(vectors({&source}), 4096 + 10);
  CHECK_EQ(bytes_of(whole.vectors), 8192U);
  const auto* tail = static_cast<const std::byte*>(whole.tail.get());
  for (unsigned i = 0; i < 4096; ++i) CHECK_EQ(tail[i], i < 10 ? std::byte{0x77} : std::byte{0});
}

TEST_CASE(a_file_larger_than_its_buffers_writes_no_byte) {
  for_each_backend([](Backend backend) {
    // A11: the length is checked before a byte is read.
    Folder folder;
    Machine machine(backend);
    Bytes source = pattern(5000, 3);
    CHECK_EQ(machine.run(writing_file(folder, "large", {&source}, Caching::buffered)), 5000);
    Bytes target(4999, std::byte{0x22});
    CHECK_EQ(machine.run(reading_file(folder, "large", {&target}, Caching::buffered)), -EFBIG);
    CHECK(target == Bytes(4999, std::byte{0x22}));
  });
}

TEST_CASE(what_fails_says_so_and_leaves_nothing) {
  for_each_backend([](Backend backend) {
    Folder folder;
    Machine machine(backend);
    Bytes source = pattern(100, 4);
    CHECK_EQ(machine.run(reading_file(folder, "absent", {&source}, Caching::buffered)), -ENOENT);
    CHECK_EQ(machine.run(std::make_unique<CallJob>(Op::remove, folder.fd(), "absent")), -ENOENT);
    CHECK_EQ(machine.run(std::make_unique<LookJob>(folder.fd(), "absent")), -ENOENT);
    CHECK_EQ(machine.run(reading(-1, 0, {&source})), -EBADF);
    // A temporary name that is taken is never written to.
    close(folder.open("object.aside", O_CREAT | O_WRONLY));
    CHECK_EQ(machine.run(writing_file(folder, "object", {&source}, Caching::buffered)), -EEXIST);
    CHECK_EQ(folder.size("object.aside"), 0);
    unlinkat(folder.fd(), "object.aside", 0);
    // The target is a folder: the rename fails, and the temporary goes.
    CHECK_EQ(mkdirat(folder.fd(), "object", 0700), 0);
    CHECK_EQ(machine.run(writing_file(folder, "object", {&source}, Caching::buffered)), -EISDIR);
    CHECK(folder.names() == std::vector<std::string>{"object"});
  });
}

TEST_CASE(a_write_that_finds_no_room_removes_what_it_wrote) {
  for_each_backend([](Backend backend) {
    // C5, by the limit of file sizes: the same path as a full disk.
    Folder folder;
    Machine machine(backend);
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit small{1 << 20, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    Blocks source(512);
    const std::int64_t outcome =
        machine.run(writing_file(folder, "object", {&source}, Caching::direct, source.size()));
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK_EQ(outcome, -EFBIG);
    CHECK(folder.names().empty());
  });
}

TEST_CASE(folders_that_are_missing_are_made_and_files_in_them_replaced_whole) {
  for_each_backend([](Backend backend) {
    Folder folder;
    Machine machine(backend);
    for (const unsigned seed : {1U, 2U}) {
      Bytes source = pattern(70'000 / seed, seed);
      auto request = file_request(folder, "a/b/object", std::vector{&source}, Caching::buffered);
      request.temporary = "aside";
      request.durability = Durability::fdatasync;
      CHECK_EQ(machine.run(std::make_unique<WriteFileJob>(request)), std::int64_t(source.size()));
      CHECK_EQ(machine.run(std::make_unique<LookJob>(folder.fd(), "a/b/object")),
               std::int64_t(source.size()));
      Bytes target(70'000);
      CHECK_EQ(machine.run(reading_file(folder, "a/b/object", {&target}, Caching::buffered)),
               std::int64_t(source.size()));
      CHECK(std::equal(source.begin(), source.end(), target.begin()));
    }
    CHECK(folder.names() == std::vector<std::string>{"a"});
    CHECK_EQ(machine.run(std::make_unique<CallJob>(Op::remove, folder.fd(), "a/b/object")), 0);
    CHECK_EQ(machine.run(std::make_unique<LookJob>(folder.fd(), "a/b/object")), -ENOENT);
  });
}

TEST_CASE(many_jobs_at_once_are_each_told_of_once) {
  for_each_backend([](Backend backend) {
    Folder folder;
    Machine machine(backend);
    constexpr unsigned kFiles = 200;
    std::vector<Bytes> sources;
    std::vector<Bytes> targets(kFiles, Bytes(3000));
    for (unsigned i = 0; i < kFiles; ++i) sources.push_back(pattern(3000, i));
    std::vector<std::unique_ptr<Job>> jobs;
    const auto name = [](unsigned i) { return "file" + std::to_string(i); };
    for (unsigned i = 0; i < kFiles; ++i) {
      jobs.push_back(writing_file(folder, name(i), {&sources[i]}, Caching::buffered));
    }
    for (const std::int64_t outcome : machine.run_all(std::move(jobs))) CHECK_EQ(outcome, 3000);
    for (unsigned i = 0; i < kFiles; ++i) {
      jobs.push_back(reading_file(folder, name(i), {&targets[i]}, Caching::buffered));
    }
    for (const std::int64_t outcome : machine.run_all(std::move(jobs))) CHECK_EQ(outcome, 3000);
    CHECK(sources == targets);
    CHECK_EQ(machine.engine().jobs(), 0U);
  });
}

TEST_CASE(what_is_over_is_told_in_portions_and_the_event_stays_until_all_is_told) {
  for_each_backend([](Backend backend) {
    Folder folder;
    Machine machine(backend);
    for (int i = 0; i < 20; ++i) {
      machine.engine().submit(only(std::make_unique<LookJob>(folder.fd(), "absent")), nullptr);
    }
    std::size_t told = 0;
    while (told < 20) {
      CHECK(machine.wait());
      const std::size_t now = machine.engine().completed(3).size();
      CHECK(now <= 3);
      told += now;
    }
    CHECK(machine.engine().completed(3).empty());
    pollfd polled{machine.engine().event_fd(), POLLIN, 0};
    CHECK_EQ(poll(&polled, 1, 0), 0);
  });
}

TEST_CASE(what_a_job_keeps_lives_until_it_is_told_of_and_dies_on_this_thread) {
  for_each_backend([](Backend backend) {
    // A2: nothing that a job may still touch is given back before the job is over.
    Folder folder;
    SlowDisk disk(folder);
    Machine machine(backend);
    Bytes target(4);
    bool dead = false;
    const pthread_t here = pthread_self();
    bool died_here = false;
    const auto drop = [&](const void*) {
      dead = true;
      died_here = pthread_equal(here, pthread_self()) != 0;
    };
    // A batch is over with its last job: the others do not end it.
    Jobs jobs = only(std::make_unique<LookJob>(folder.fd(), "absent"));
    jobs.push_back(disk.reading(backend, target));
    jobs.push_back(std::make_unique<LookJob>(folder.fd(), "absent"));
    const std::uint64_t batch =
        machine.engine().submit(std::move(jobs), Keep(static_cast<const void*>(&target), drop));
    CHECK_EQ(machine.run(std::make_unique<LookJob>(folder.fd(), "absent")), -ENOENT);
    CHECK(!dead);
    disk.answer();
    while (!dead) {
      CHECK(machine.wait());
      for (const auto& one : machine.engine().completed()) {
        CHECK_EQ(one->id, batch);
        CHECK_EQ(one->outcomes.size(), 3U);
        CHECK_EQ(one->outcomes[0], -ENOENT);
        CHECK(one->outcomes[1] >= 0);
        CHECK_EQ(one->outcomes[2], -ENOENT);
      }
    }
    CHECK(died_here);
  });
}

TEST_CASE(closing_tells_of_every_job_and_begins_no_more) {
  for_each_backend([](Backend backend) {
    Folder folder;
    Engine engine({.depth = 2, .threads = 2, .backend = backend});
    std::vector<Bytes> sources(50, pattern(2000, 9));
    std::map<std::uint64_t, int> told;
    for (unsigned i = 0; i < 50;) {  // batches of five
      Jobs jobs;
      for (; jobs.size() < 5; ++i) {
        const std::string name = "file" + std::to_string(i);
        jobs.push_back(writing_file(folder, name, {&sources[i]}, Caching::buffered));
      }
      told[engine.submit(std::move(jobs), nullptr)] = 0;
    }
    engine.close();
    unsigned whole = 0;
    for (const auto& one : engine.completed()) {
      ++told.at(one->id);
      CHECK_EQ(one->outcomes.size(), 5U);
      for (const std::int64_t outcome : one->outcomes) {
        CHECK(outcome == 2000 || outcome == -ECANCELED);
        whole += outcome == 2000 ? 1 : 0;
      }
    }
    for (const auto& [batch, times] : told) CHECK_EQ(times, 1);
    CHECK_EQ(engine.jobs(), 0U);
    CHECK_EQ(folder.names().size(), whole);  // and no temporary
    Bytes target(1);
    CHECK_THROWS(engine.submit(only(reading(folder.fd(), 0, {&target})), nullptr), EngineClosed);
    engine.close();
  });
}

TEST_CASE(closing_gives_up_what_would_wait_for_ever) {
  if (!ring_works()) return;
  Folder folder;
  SlowDisk disk(folder);
  Bytes target(4);
  Machine machine(Backend::io_uring);
  Engine& engine = machine.engine();
  const std::uint64_t slow = engine.submit(only(disk.reading(Backend::io_uring, target)), nullptr);
  // Begun, since one that came later is over.
  CHECK_EQ(machine.run(std::make_unique<LookJob>(folder.fd(), "absent")), -ENOENT);
  engine.close();
  const auto told = engine.completed();
  CHECK_EQ(told.size(), 1U);
  CHECK_EQ(told[0]->id, slow);
  CHECK_EQ(told[0]->outcomes[0], -ECANCELED);
}

TEST_CASE(an_engine_ends_though_a_call_does_not_and_its_job_keeps_what_it_has) {
  // B1: a process ends whatever a dead disk does. A2: the memory stays the job's.
  Folder folder;
  CHECK_EQ(mkfifoat(folder.fd(), "pipe", 0600), 0);
  static Bytes target(4);  // written by a thread that may outlive this
  bool dropped = false;
  {
    Engine engine({.depth = 2, .threads = 2, .backend = Backend::threads});
    engine.submit(only(reading_file(folder, "pipe", {&target}, Caching::buffered)),
                  Keep(static_cast<const void*>(&target), [&](const void*) { dropped = true; }));
    // Begun, since one that came later is over.
    engine.submit(only(std::make_unique<LookJob>(folder.fd(), "absent")), nullptr);
    while (engine.completed().empty()) {
      pollfd polled{engine.event_fd(), POLLIN, 0};
      CHECK_EQ(poll(&polled, 1, 10'000), 1);
    }
  }
  CHECK(!dropped);
}

TEST_CASE(limits_are_refused_by_name) {
  Folder folder;
  CHECK_THROWS(Engine({.depth = 0}), std::invalid_argument);
  CHECK_THROWS(Engine({.threads = 0}), std::invalid_argument);
  CHECK_THROWS(Engine({.depth = 8, .jobs_max = 7}), std::invalid_argument);
  CHECK_EQ(mkfifoat(folder.fd(), "pipe", 0600), 0);
  Bytes target(1);
  Machine machine(Backend::threads, {.depth = 1, .threads = 1, .jobs_max = 2});
  const auto slow = [&] { return reading_file(folder, "pipe", {&target}, Caching::buffered); };
  machine.engine().submit(only(slow()), nullptr);
  Jobs more = only(slow());
  more.push_back(slow());
  machine.engine().submit(std::move(more), nullptr);
  CHECK_EQ(machine.engine().jobs(), 2U);
  CHECK_EQ(machine.run(slow()), kTooMany);
  close(folder.open("pipe", O_RDWR));
  const int other = folder.open("pipe", O_RDWR);
  Batches over;
  while (over.size() < 2) {
    CHECK(machine.wait());
    for (auto& one : machine.engine().completed()) over.push_back(one);
  }
  close(other);
  CHECK(over[1]->outcomes[0] != kTooMany);
  CHECK_EQ(over[1]->outcomes[1], kTooMany);
  CHECK_EQ(machine.engine().jobs(), 0U);
}

TEST_CASE(the_backend_asked_for_is_the_one_used) {
  CHECK(Engine({.backend = Backend::threads}).backend() == Backend::threads);
  const Engine automatic({});
  CHECK_EQ(automatic.backend() == Backend::io_uring, automatic.backend_reason().empty());
  CHECK_EQ(automatic.backend() == Backend::io_uring, ring_works());
}

}  // namespace
}  // namespace penstock::io

CHECK_MAIN()
