// Headers made, and what a store has read proven, for a whole batch in one call.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "bind/buffers.hpp"
#include "bind/held_bytes.hpp"
#include "core/digest.hpp"
#include "core/object_header.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using penstock::AskedObject;
using penstock::kObjectNameBytes;
using penstock::kTenantBytes;
using penstock::NewObject;
using penstock::ProvenObject;
using penstock::ReadObject;
using penstock::bind::HeldBuffer;
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

std::span<const std::byte, kTenantBytes> tenant(std::string_view tenants, std::size_t at) {
  const auto all = std::as_bytes(std::span(tenants));
  return all.subspan(at * kTenantBytes).first<kTenantBytes>();
}

std::uint64_t header_bytes_of(std::string_view run_digests) {
  if (run_digests.size() % sizeof(std::uint64_t) != 0) {
    throw py::value_error("run digests are not packed u64");
  }
  return penstock::header_bytes(run_digests.size() / sizeof(std::uint64_t));
}

void write_headers(const py::buffer& target, std::string_view keys, std::string_view namespaces,
                   std::string_view tenants, const Sizes& logical_bytes, const Sizes& digests,
                   const std::vector<std::string_view>& run_digests) {
  const std::size_t count = logical_bytes.size();
  if (keys.size() != count * kObjectNameBytes || namespaces.size() != count * kObjectNameBytes ||
      tenants.size() != count * kTenantBytes || digests.size() != count ||
      run_digests.size() != count) {
    throw py::value_error("columns are of different lengths");
  }
  const HeldBuffer held = HeldBuffer::writing(target, "target");
  std::span<std::byte> left = held.bytes();
  std::uint64_t wanted = 0;
  for (const std::string_view runs : run_digests) wanted += header_bytes_of(runs);
  if (wanted != left.size()) {
    throw py::value_error("target is not as long as the headers of these runs");
  }
  for (std::size_t at = 0; at < count; ++at) {
    const std::uint64_t size = header_bytes_of(run_digests[at]);
    const NewObject object{.key = name(keys, at),
                           .space = name(namespaces, at),
                           .tenant = tenant(tenants, at),
                           .logical_bytes = logical_bytes[at],
                           .digest = digests[at],
                           .run_digests = std::as_bytes(std::span(run_digests[at]))};
    penstock::write_header(object, left.first(size));
    left = left.subspan(size);
  }
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
  m.def("write_headers", &write_headers, "target"_a, py::kw_only(), "keys"_a, "namespaces"_a,
        "tenants"_a, "logical_bytes"_a, "digests"_a, "run_digests"_a,
        "The headers of objects without a transform, one after the other, into zeros.");
  m.def("prove_objects", &prove_objects, py::kw_only(), "keys"_a, "namespaces"_a, "logical_bytes"_a,
        "runs"_a, "headers"_a, "payloads"_a, "payload_bytes"_a,
        "Of each object the digest and the packed digests of its runs; None if anything of it is "
        "not as it was asked for. Releases the GIL.");
  m.def("crc64_of_each", &digests_of, "buffers"_a,
        "CRC-64/NVME of each contiguous buffer. Releases the GIL.");
}
