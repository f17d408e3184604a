// The I/O engine as Python sees it.
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bind/buffers.hpp"
#include "io/engine.hpp"
#include "io/read_now.hpp"
#include "io/write_file.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using penstock::bind::HeldBuffer;
using penstock::io::Backend;
using penstock::io::Caching;
using penstock::io::CallJob;
using penstock::io::Completion;
using penstock::io::Durability;
using penstock::io::Engine;
using penstock::io::EngineOptions;
using penstock::io::Job;
using penstock::io::LookJob;
using penstock::io::Op;
using penstock::io::ReadFileJob;
using penstock::io::TransferJob;
using penstock::io::WriteFileJob;

namespace {

// What a job keeps alive. Made and destroyed with the GIL held: by submit and completed.
struct Held {
  std::vector<HeldBuffer> buffers;
  py::object hold;

  [[nodiscard]] std::vector<iovec> vectors() const {
    std::vector<iovec> made;
    made.reserve(buffers.size());
    for (const HeldBuffer& one : buffers) {
      if (!one.bytes().empty()) made.push_back({one.bytes().data(), one.bytes().size()});
    }
    return made;
  }
};

std::shared_ptr<Held> reading(const std::vector<py::buffer>& buffers, py::object hold) {
  auto held = std::make_shared<Held>();
  held->hold = std::move(hold);
  for (const py::buffer& one : buffers) {
    held->buffers.push_back(HeldBuffer::reading(one, "buffers"));
  }
  return held;
}

std::shared_ptr<Held> writing(const std::vector<py::buffer>& buffers, py::object hold) {
  auto held = std::make_shared<Held>();
  held->hold = std::move(hold);
  for (const py::buffer& one : buffers) {
    held->buffers.push_back(HeldBuffer::writing(one, "buffers"));
  }
  return held;
}

std::uint64_t read_at(Engine& engine, int fd, std::uint64_t offset,
                      const std::vector<py::buffer>& buffers, py::object hold) {
  auto held = writing(buffers, std::move(hold));
  auto job = std::make_unique<TransferJob>(Op::read, fd, offset, held->vectors());
  return engine.submit(std::move(job), std::move(held));
}

std::uint64_t write_at(Engine& engine, int fd, std::uint64_t offset,
                       const std::vector<py::buffer>& buffers, py::object hold) {
  auto held = reading(buffers, std::move(hold));
  auto job = std::make_unique<TransferJob>(Op::write, fd, offset, held->vectors());
  return engine.submit(std::move(job), std::move(held));
}

std::uint64_t read_file(Engine& engine, int directory, std::string name,
                        const std::vector<py::buffer>& buffers, Caching caching, py::object hold) {
  auto held = writing(buffers, std::move(hold));
  auto job = std::make_unique<ReadFileJob>(ReadFileJob::Request{.directory = directory,
                                                                .name = std::move(name),
                                                                .vectors = held->vectors(),
                                                                .caching = caching});
  return engine.submit(std::move(job), std::move(held));
}

std::uint64_t write_file(Engine& engine, int directory, std::string temporary, std::string name,
                         const std::vector<py::buffer>& buffers, std::uint64_t bytes,
                         Caching caching, Durability durability, py::object hold) {
  auto held = reading(buffers, std::move(hold));
  WriteFileJob::Request request{.directory = directory,
                                .temporary = std::move(temporary),
                                .name = std::move(name),
                                .vectors = held->vectors(),
                                .bytes = bytes,
                                .caching = caching,
                                .durability = durability};
  return engine.submit(std::make_unique<WriteFileJob>(std::move(request)), std::move(held));
}

template <Op kOp>
std::uint64_t call(Engine& engine, int fd) {
  return engine.submit(std::make_unique<CallJob>(kOp, fd), nullptr);
}

std::uint64_t remove_file(Engine& engine, int directory, std::string name) {
  return engine.submit(std::make_unique<CallJob>(Op::remove, directory, std::move(name)), nullptr);
}

std::uint64_t stat_file(Engine& engine, int directory, std::string name) {
  return engine.submit(std::make_unique<LookJob>(directory, std::move(name)), nullptr);
}

std::int64_t read_file_now(int directory, const std::string& name,
                           const std::vector<py::buffer>& buffers) {
  return penstock::io::read_file_now(directory, name, writing(buffers, py::none())->vectors());
}

std::vector<std::pair<std::uint64_t, std::int64_t>> completed(Engine& engine,
                                                              std::size_t count_max) {
  std::vector<std::pair<std::uint64_t, std::int64_t>> told;
  for (const Completion& one : engine.completed(count_max)) told.emplace_back(one.job, one.outcome);
  return told;
}

std::unique_ptr<Engine> make(unsigned depth, unsigned threads, unsigned jobs_max, Backend backend) {
  return std::make_unique<Engine>(
      EngineOptions{.depth = depth, .threads = threads, .jobs_max = jobs_max, .backend = backend});
}

}  // namespace

void bind_io(py::module_& m) {
  py::register_exception<penstock::io::EngineFull>(m, "IoEngineFull");
  py::register_exception<penstock::io::EngineClosed>(m, "IoEngineClosed");

  py::native_enum<Backend>(m, "IoBackend", "enum.Enum", "Who makes the system calls.")
      .value("AUTO", Backend::automatic)
      .value("IO_URING", Backend::io_uring)
      .value("THREADS", Backend::threads)
      .finalize();
  py::native_enum<Caching>(m, "Caching", "enum.Enum", "Whether the page cache takes part.")
      .value("BUFFERED", Caching::buffered)
      .value("DIRECT", Caching::direct)
      .finalize();
  py::native_enum<Durability>(m, "Durability", "enum.Enum", "What a power cut may take.")
      .value("NONE", Durability::none)
      .value("FDATASYNC", Durability::fdatasync)
      .finalize();

  m.def("read_file_now", &read_file_now, "directory"_a, "name"_a, "buffers"_a,
        "A whole file, if the page cache has it.");

  // Nothing here waits but close, which releases the GIL: jobs' keeps die in completed() only.
  py::class_<Engine>(m, "IoEngine", "Reads and writes of files that nobody waits for in place.")
      .def(py::init(&make), py::kw_only(), "depth"_a = 64, "threads"_a = 4, "jobs_max"_a = 4096,
           "backend"_a = Backend::automatic)
      .def_property_readonly("backend", &Engine::backend)
      .def_property_readonly("backend_reason", &Engine::backend_reason)
      .def_property_readonly("event_fd", &Engine::event_fd)
      .def_property_readonly("jobs", &Engine::jobs)
      .def("read", &read_at, "fd"_a, "offset"_a, "buffers"_a, "hold"_a)
      .def("write", &write_at, "fd"_a, "offset"_a, "buffers"_a, "hold"_a)
      .def("sync", &call<Op::sync_data>, "fd"_a)
      .def("read_file", &read_file, "directory"_a, "name"_a, "buffers"_a, py::kw_only(),
           "caching"_a, "hold"_a)
      .def("write_file", &write_file, "directory"_a, "temporary"_a, "name"_a, "buffers"_a,
           py::kw_only(), "bytes"_a, "caching"_a, "durability"_a, "hold"_a)
      .def("remove_file", &remove_file, "directory"_a, "name"_a)
      .def("stat_file", &stat_file, "directory"_a, "name"_a)
      .def("completed", &completed, "count_max"_a)
      .def("stop", &Engine::stop)
      .def("close", &Engine::close, py::call_guard<py::gil_scoped_release>());
}
