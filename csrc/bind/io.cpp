// The I/O engine as Python sees it.
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "io/engine.hpp"
#include "io/read_now.hpp"
#include "io/write_file.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using penstock::io::Backend;
using penstock::io::Caching;
using penstock::io::CallJob;
using penstock::io::Durability;
using penstock::io::Engine;
using penstock::io::EngineOptions;
using penstock::io::Jobs;
using penstock::io::LookJob;
using penstock::io::Op;
using penstock::io::ReadFileJob;
using penstock::io::TransferJob;
using penstock::io::WriteFileJob;

namespace {

// The bytes of a Python object, for as long as this lives. Made and destroyed with the GIL held.
class Bytes {
 public:
  // Raises BufferError, TypeError for what is not contiguous, or may not be written as asked.
  Bytes(py::handle from, int flags) {
    if (PyObject_GetBuffer(from.ptr(), &view_, flags) != 0) throw py::error_already_set();
  }
  ~Bytes() { PyBuffer_Release(&view_); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  Bytes(Bytes&&) = delete;
  Bytes& operator=(Bytes&&) = delete;

  [[nodiscard]] iovec vector() const { return {view_.buf, static_cast<std::size_t>(view_.len)}; }

 private:
  Py_buffer view_{};
};

constexpr int kToRead = PyBUF_WRITABLE;  // from a file
constexpr int kToWrite = PyBUF_SIMPLE;

using Buffers = std::vector<py::object>;
using Piece = std::tuple<std::uint64_t, Buffers>;                      // offset
using Name = std::tuple<int, std::string>;                             // below an open folder
using FileToRead = std::tuple<int, std::string, py::object, Buffers>;  // caching
using FileToWrite = std::tuple<int, std::string, std::string, Caching, std::uint64_t, Buffers>;

// Jobs, and what they keep alive. Made and destroyed with the GIL held: by submit and completed.
class Asked {
 public:
  explicit Asked(py::object hold) : held_(std::make_shared<Held>()) {
    held_->hold = std::move(hold);
  }

  // What is left out is empty.
  std::vector<iovec> vectors(const Buffers& buffers, int flags) {
    std::vector<iovec> made;
    made.reserve(buffers.size());
    for (const py::object& one : buffers) {
      const iovec vector = held_->buffers.emplace_back(one, flags).vector();
      if (vector.iov_len > 0) made.push_back(vector);
    }
    return made;
  }

  template <typename T, typename... Arguments>
  void add(Arguments&&... arguments) {
    jobs_.push_back(std::make_unique<T>(std::forward<Arguments>(arguments)...));
  }

  std::uint64_t of(Engine& engine) { return engine.submit(std::move(jobs_), std::move(held_)); }

 private:
  struct Held {
    std::deque<Bytes> buffers;  // which stay where they are
    py::object hold;
  };
  std::shared_ptr<Held> held_;
  Jobs jobs_;
};

// pybind11 asks Python for the value of each: as long as all the rest of a file takes.
Caching caching_of(const py::object& given) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> direct;
  direct.call_once_and_store_result([] { return py::cast(Caching::direct); });
  return given.is(direct.get_stored()) ? Caching::direct : given.cast<Caching>();
}

template <Op kOp>
std::uint64_t transfer(Engine& engine, int fd, const std::vector<Piece>& pieces, py::object hold) {
  Asked asked(std::move(hold));
  for (const auto& [offset, buffers] : pieces) {
    auto vectors = asked.vectors(buffers, kOp == Op::read ? kToRead : kToWrite);
    asked.add<TransferJob>(kOp, fd, offset, std::move(vectors));
  }
  return asked.of(engine);
}

std::uint64_t read_files(Engine& engine, const std::vector<FileToRead>& files, py::object hold) {
  Asked asked(std::move(hold));
  for (const auto& [directory, name, caching, buffers] : files) {
    asked.add<ReadFileJob>(ReadFileJob::Request{.directory = directory,
                                                .name = name,
                                                .vectors = asked.vectors(buffers, kToRead),
                                                .caching = caching_of(caching)});
  }
  return asked.of(engine);
}

std::uint64_t write_files(Engine& engine, const std::vector<FileToWrite>& files,
                          Durability durability, py::object hold) {
  Asked asked(std::move(hold));
  for (const auto& [directory, temporary, name, caching, bytes, buffers] : files) {
    asked.add<WriteFileJob>(WriteFileJob::Request{.directory = directory,
                                                  .temporary = temporary,
                                                  .name = name,
                                                  .vectors = asked.vectors(buffers, kToWrite),
                                                  .bytes = bytes,
                                                  .caching = caching,
                                                  .durability = durability});
  }
  return asked.of(engine);
}

std::uint64_t sync_file(Engine& engine, int fd) {
  Asked asked{py::none()};
  asked.add<CallJob>(Op::sync_data, fd);
  return asked.of(engine);
}

std::uint64_t remove_files(Engine& engine, const std::vector<Name>& names) {
  Asked asked{py::none()};
  for (const auto& [directory, name] : names) asked.add<CallJob>(Op::remove, directory, name);
  return asked.of(engine);
}

std::uint64_t stat_files(Engine& engine, const std::vector<Name>& names) {
  Asked asked{py::none()};
  for (const auto& [directory, name] : names) asked.add<LookJob>(directory, name);
  return asked.of(engine);
}

std::int64_t read_file_now(int directory, const std::string& name, const Buffers& buffers) {
  Asked asked{py::none()};
  return penstock::io::read_file_now(directory, name, asked.vectors(buffers, kToRead));
}

std::vector<std::pair<std::uint64_t, std::vector<std::int64_t>>> completed(
    Engine& engine, std::size_t outcomes_max) {
  std::vector<std::pair<std::uint64_t, std::vector<std::int64_t>>> told;
  for (const auto& one : engine.completed(outcomes_max)) {
    told.emplace_back(one->id, std::move(one->outcomes));
  }
  return told;
}

std::unique_ptr<Engine> make(unsigned depth, unsigned threads, unsigned jobs_max, Backend backend) {
  return std::make_unique<Engine>(
      EngineOptions{.depth = depth, .threads = threads, .jobs_max = jobs_max, .backend = backend});
}

}  // namespace

void bind_io(py::module_& m) {
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
      .def("read", &transfer<Op::read>, "fd"_a, "pieces"_a, "hold"_a)
      .def("write", &transfer<Op::write>, "fd"_a, "pieces"_a, "hold"_a)
      .def("sync", &sync_file, "fd"_a)
      .def("read_files", &read_files, "files"_a, "hold"_a)
      .def("write_files", &write_files, "files"_a, "durability"_a, "hold"_a)
      .def("remove_files", &remove_files, "names"_a)
      .def("stat_files", &stat_files, "names"_a)
      .def("completed", &completed, "outcomes_max"_a)
      .def("stop", &Engine::stop)
      .def("close", &Engine::close, py::call_guard<py::gil_scoped_release>());
}
