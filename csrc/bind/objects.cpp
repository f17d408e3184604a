// What a store has read, proven for a whole batch in one call.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "bind/held_bytes.hpp"
#include "core/digest.hpp"
#include "core/object_header.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using penstock::AskedObject;
using penstock::kObjectNameBytes;
using penstock::ProvenObject;
using penstock::ReadObject;
using penstock::bind::HeldBytes;

namespace {

using Sizes = std::vector<std::uint64_t>;
using Buffers = std::vector<py::object>;
using Proof = std::optional<ProvenObject>;

std::span<const std::byte, kObjectNameBytes> name(std::string_view names, std::size_t at) {
  const auto all = std::as_bytes(std::span(names));
  return all.subspan(at * kObjectNameBytes).first<kObjectNameBytes>();
}

void check_counts(std::size_t count, std::string_view keys, std::string_view spaces,
                  const Sizes& logical_bytes, const std::vector<std::uint32_t>& runs,
                  const Buffers& payloads, const Sizes& payload_bytes) {
  if (keys.size() != count * kObjectNameBytes || spaces.size() != count * kObjectNameBytes ||
      logical_bytes.size() != count || runs.size() != count || payloads.size() != count ||
      payload_bytes.size() != count) {
    throw py::value_error("columns are of different lengths");
  }
}

py::list told(const std::vector<Proof>& proofs) {
  py::list made(proofs.size());
  for (std::size_t at = 0; at < proofs.size(); ++at) {
    if (!proofs[at]) {
      made[at] = py::none();
      continue;
    }
    const auto& runs = proofs[at]->run_digests;
    made[at] = py::make_tuple(
        proofs[at]->digest,
        py::bytes(reinterpret_cast<const char*>(runs.data()), runs.size() * sizeof(std::uint64_t)));
  }
  return made;
}

py::list prove_objects(std::string_view keys, std::string_view namespaces,
                       const Sizes& logical_bytes, const std::vector<std::uint32_t>& runs,
                       const Buffers& headers, const Buffers& payloads,
                       const Sizes& payload_bytes) {
  const std::size_t count = headers.size();
  check_counts(count, keys, namespaces, logical_bytes, runs, payloads, payload_bytes);
  const HeldBytes header_bytes(headers, PyBUF_SIMPLE);
  const HeldBytes payload_views(payloads, PyBUF_SIMPLE);
  std::vector<Proof> proofs(count);
  {
    const py::gil_scoped_release release_gil;
    for (std::size_t at = 0; at < count; ++at) {
      const AskedObject asked{.key = name(keys, at),
                              .space = name(namespaces, at),
                              .logical_bytes = logical_bytes[at],
                              .runs = runs[at]};
      proofs[at] = prove(asked, ReadObject{.header = header_bytes[at],
                                           .payload = payload_views[at],
                                           .payload_bytes = payload_bytes[at]});
    }
  }
  return told(proofs);
}

std::vector<std::uint64_t> digests_of(const Buffers& buffers) {
  const HeldBytes held(buffers, PyBUF_SIMPLE);
  std::vector<std::uint64_t> digests(buffers.size());
  const py::gil_scoped_release release_gil;
  for (std::size_t at = 0; at < digests.size(); ++at) digests[at] = penstock::crc64(held[at]);
  return digests;
}

}  // namespace

void bind_objects(py::module_& m) {
  m.def("prove_objects", &prove_objects, py::kw_only(), "keys"_a, "namespaces"_a, "logical_bytes"_a,
        "runs"_a, "headers"_a, "payloads"_a, "payload_bytes"_a,
        "Of each object the digest and the packed digests of its runs; None if anything of it is "
        "not as it was asked for. Releases the GIL.");
  m.def("crc64_of_each", &digests_of, "buffers"_a,
        "CRC-64/NVME of each contiguous buffer. Releases the GIL.");
}
