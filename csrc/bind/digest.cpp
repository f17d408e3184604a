// The digest as Python sees it.
#include "core/digest.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bind/buffers.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using penstock::bind::HeldBuffer;

namespace {

std::uint64_t digest_of(const py::buffer& data, std::uint64_t initial) {
  const HeldBuffer held = HeldBuffer::reading(data, "data");
  const auto bytes = held.bytes();
  const py::gil_scoped_release release_gil;
  return penstock::crc64(bytes, initial);
}

std::uint64_t digest_of_runs(const py::buffer& runs, std::uint64_t run_bytes) {
  const HeldBuffer held = HeldBuffer::reading(runs, "runs");
  return penstock::crc64_join_runs(held.records<std::uint64_t>(), run_bytes);
}

std::vector<std::string> implementation_names() {
  std::vector<std::string> names;
  for (const auto& one : penstock::crc64_implementations()) {
    names.emplace_back(one.name);
  }
  return names;
}

}  // namespace

void bind_digest(py::module_& m) {
  m.def("crc64", &digest_of, "data"_a, py::kw_only(), "initial"_a = 0,
        "CRC-64/NVME of contiguous bytes, continuing the digest `initial`. Releases the GIL.");
  m.def("crc64_combine", &penstock::crc64_combine, "crc_a"_a, "crc_b"_a, "bytes_b"_a,
        "The digest of A followed by B, from both digests and the length of B.");
  m.def("crc64_join_runs", &digest_of_runs, "runs"_a, py::kw_only(), "run_bytes"_a,
        "The digest of consecutive runs of equal length: an object's from its run digests.");
  m.def("crc64_implementations", &implementation_names,
        "What this CPU can run, slowest first; the last one is used.");
}
