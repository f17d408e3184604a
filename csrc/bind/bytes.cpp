// Whole payloads moved or cast, without the GIL.
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "bind/buffers.hpp"
#include "copy/fp8.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using penstock::HalfKind;
using penstock::bind::HeldBuffer;

namespace {

void copy_bytes(const py::buffer& source, const py::buffer& target) {
  const HeldBuffer from = HeldBuffer::reading(source, "source");
  const HeldBuffer into = HeldBuffer::writing(target, "target");
  if (from.bytes().size() != into.bytes().size()) {
    throw py::value_error("source has " + std::to_string(from.bytes().size()) + " bytes, target " +
                          std::to_string(into.bytes().size()));
  }
  if (!from.bytes().empty()) {
    const py::gil_scoped_release release_gil;
    std::memmove(into.bytes().data(), from.bytes().data(), from.bytes().size());
  }
}

void sync_bytes(const py::buffer& memory) {
  const HeldBuffer held = HeldBuffer::writing(memory, "memory");
  const auto begin = reinterpret_cast<std::uintptr_t>(held.bytes().data());
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::uintptr_t first = begin / page * page;
  int failed = 0;
  {
    const py::gil_scoped_release release_gil;
    failed = msync(reinterpret_cast<void*>(first), begin + held.bytes().size() - first, MS_SYNC);
  }
  if (failed != 0) {
    PyErr_SetFromErrno(PyExc_OSError);
    throw py::error_already_set();
  }
}

py::object cast(const py::buffer& source, const py::buffer& target, std::size_t runs,
                HalfKind kind) {
  const HeldBuffer from = HeldBuffer::reading(source, "source");
  const HeldBuffer into = HeldBuffer::writing(target, "target");
  std::optional<std::vector<std::uint64_t>> digests;
  {
    const py::gil_scoped_release release_gil;
    digests = penstock::fp8_cast(from.bytes(), runs, kind, into.bytes());
  }
  if (!digests) {
    return py::none();
  }
  return py::bytes(reinterpret_cast<const char*>(digests->data()),
                   digests->size() * sizeof(std::uint64_t));
}

void restore(const py::buffer& source, const py::buffer& target, std::size_t runs, HalfKind kind) {
  const HeldBuffer from = HeldBuffer::reading(source, "source");
  const HeldBuffer into = HeldBuffer::writing(target, "target");
  const py::gil_scoped_release release_gil;
  penstock::fp8_restore(from.bytes(), runs, kind, into.bytes());
}

}  // namespace

void bind_bytes(py::module_& m) {
  py::register_exception<penstock::CastRefused>(m, "CastRefused", PyExc_ValueError);
  py::native_enum<HalfKind>(m, "HalfKind", "enum.Enum", "What an object's 16-bit elements are.")
      .value("BFLOAT16", HalfKind::kBfloat16)
      .value("FLOAT16", HalfKind::kFloat16)
      .finalize();
  m.def("copy_bytes", &copy_bytes, py::kw_only(), "source"_a, "target"_a,
        "Copy all of source over all of target, which has as many bytes. Releases the GIL.");
  m.def("sync_bytes", &sync_bytes, "memory"_a,
        "Write the pages of a mapped file that `memory` lies in to its device. Releases the GIL.");
  m.def("fp8_cast_bytes", &penstock::fp8_cast_bytes, py::kw_only(), "elements"_a, "runs"_a,
        "Bytes of a cast object.");
  m.def(
      "fp8_cast", &cast, py::kw_only(), "source"_a, "target"_a, "runs"_a, "kind"_a,
      "Cast an object. Returns the packed digests of its runs as they will be once restored; None "
      "if it cannot be cast. Releases the GIL.");
  m.def("fp8_restore", &restore, py::kw_only(), "source"_a, "target"_a, "runs"_a, "kind"_a,
        "The object that was cast. Releases the GIL.");
}
