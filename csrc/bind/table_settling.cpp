// The L1 table as Python sees it: what becomes of what was written.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind/table_args.hpp"
#include "core/table.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using namespace penstock::bind;

namespace {

using penstock::Table;
using Indices = std::vector<std::uint32_t>;
using U64s = std::span<const std::uint64_t>;

// As they lie: a message may hold megabytes of them. The payload of Python's bytes is aligned.
U64s u64s_of(const py::bytes& packed, const char* what) {
  const auto bytes = bytes_of(packed);
  if (bytes.size() % sizeof(std::uint64_t) != 0) {
    throw penstock::BadArgument(std::string(what) + " of " + std::to_string(bytes.size()) +
                                " bytes; give packed u64");
  }
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(std::uint64_t) != 0) {
    throw std::logic_error("bytes that Python has not aligned");
  }
  return {reinterpret_cast<const std::uint64_t*>(bytes.data()),
          bytes.size() / sizeof(std::uint64_t)};
}

template <auto kMethod>
py::bytes settle(Table& table, const py::bytes& lease, std::uint64_t session,
                 const Indices& indices, const py::bytes& digests, const py::bytes& runs,
                 double now) {
  const U64s digest_words = u64s_of(digests, "digests");
  const U64s run_words = u64s_of(runs, "runs");
  return packed((table.*kMethod)(
      id_of(lease), {session, indices.empty(), indices, digest_words, run_words, now}));
}

// `done` objects of the request were committed before, with `runs_done` of its run digests.
py::tuple commit_some(Table& table, const py::bytes& lease, std::uint64_t session,
                      const Indices& indices, const py::bytes& digests, const py::bytes& runs,
                      std::size_t done, std::size_t runs_done, std::uint32_t objects_max,
                      double now) {
  const U64s digest_words = u64s_of(digests, "digests");
  const U64s run_words = u64s_of(runs, "runs");
  if (done > digest_words.size() || runs_done > run_words.size() ||
      (!indices.empty() && done > indices.size())) {
    throw penstock::BadArgument("more was done than there is");
  }
  const bool all = indices.empty();
  const std::span<const std::uint32_t> named(indices);
  const auto part =
      table.commit_some(id_of(lease),
                        {session, all, all ? named : named.subspan(done),
                         digest_words.subspan(done), run_words.subspan(runs_done), now},
                        objects_max);
  return py::make_tuple(packed(part.outcomes), runs_done + part.runs);
}

}  // namespace

void bind_table_settling(py::class_<Table>& table) {
  table
      .def("commit", &settle<&Table::commit>, "lease"_a, py::kw_only(), "session"_a,
           "indices"_a = Indices{}, "digests"_a, "runs"_a = py::bytes(), "now"_a,
           "Objects are whole: RESERVED or LOADED -> RESIDENT.")
      .def("commit_some", &commit_some, "lease"_a, py::kw_only(), "session"_a, "indices"_a,
           "digests"_a, "runs"_a, "done"_a, "runs_done"_a, "objects_max"_a, "now"_a,
           "A part of a commit.")
      .def("loaded", &settle<&Table::loaded>, "lease"_a, py::kw_only(), "session"_a,
           "indices"_a = Indices{}, "digests"_a, "runs"_a = py::bytes(), "now"_a,
           "Objects are verified: RESERVED -> LOADED.")
      .def(
          "abort",
          [](Table& self, const py::bytes& lease, std::uint64_t session) {
            return self.abort(id_of(lease), session);
          },
          "lease"_a, py::kw_only(), "session"_a, "The owner no longer writes.")
      .def(
          "salvage",
          [](Table& self, const py::bytes& lease, std::uint64_t session, const py::bytes& into) {
            return self.salvage(id_of(lease), session, id_of(into));
          },
          "lease"_a, py::kw_only(), "session"_a, "into"_a, "LOADED objects go on as another lease.")
      .def(
          "runs",
          [](Table& self, const py::bytes& key, std::uint16_t slot) {
            return packed(self.runs(key_of(key), slot));
          },
          "key"_a, "slot"_a, "Packed run digests of a resident object.");
}
