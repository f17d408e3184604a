// A file written aside and renamed: under its name it is whole, or not there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/job.hpp"

namespace penstock::io {

//   open O_EXCL -> allocate -> write... -> [truncate] -> [sync] -> close -> rename -> [sync of the
//   directories that changed] -> over
//
// A directory of `name` that is missing is made when the rename misses it.
// What fails, or is cancelled, leaves nothing: neither under the temporary name, nor under the
// other. `bytes` are the first of the buffers; direct, the buffers are whole blocks.
class WriteFileJob final : public Job {
 public:
  struct Request {
    int directory = -1;
    std::string temporary;
    std::string name;
    std::vector<iovec> vectors;
    std::uint64_t bytes = 0;
    Caching caching = Caching::buffered;
    Durability durability = Durability::none;
  };

  // Throws std::bad_alloc.
  explicit WriteFileJob(Request request);
  [[nodiscard]] const Step* begin() override;
  [[nodiscard]] const Step* proceed(std::int64_t result) override;

 private:
  const Step* written(std::int64_t result);
  const Step* write_on();
  const Step* shape();
  const Step* close();
  const Step* closed(std::int64_t result);
  const Step* rename();
  const Step* renamed(std::int64_t result);
  const Step* make_folder();
  const Step* sync_next();
  const Step* fail(std::int64_t error);
  const Step* remove(const std::string& name);
  const Step* ask(const Step& step) {
    step_ = step;
    return &step_;
  }

  Request request_;
  WholeBlocks blocks_;  // of a direct write; empty otherwise
  Transfer transfer_;
  std::vector<std::string> folders_;  // of `name`, below the directory, which comes first
  std::size_t made_ = 0;              // of folders_, how many are there or were made; 0: not tried
  std::size_t unsynced_ = 0;          // of folders_, the last so many may have to be synced
  int fd_ = -1;
  bool renamed_ = false;
  std::int64_t error_ = 0;  // what it fails with, once known
};

}  // namespace penstock::io
