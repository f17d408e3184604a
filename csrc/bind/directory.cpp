// Filters of chunks, and the directory of who has what, as Python sees them. Every call keeps the
// GIL: they are short, and belong to one thread.
#include "core/directory.hpp"

#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "bind/table_args.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using namespace penstock::bind;

namespace {

using penstock::ChunkName;
using penstock::CuckooFilter;
using penstock::Directory;
using penstock::KeyBatch;

std::vector<ChunkName> names_of(const py::bytes& names) {
  return words_of<ChunkName>(names, "names");
}

py::bytes chunk_names(const py::bytes& packed_keys) {
  const KeyBatch keys = keys_of(packed_keys);
  std::vector<ChunkName> names(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) names[i] = penstock::name_of(keys[i]);
  return packed(names);
}

bool change_filter(CuckooFilter& filter, const py::bytes& gone, const py::bytes& added) {
  const auto removed = names_of(gone);
  const auto wanted = names_of(added);
  return std::ranges::all_of(removed, [&](ChunkName name) { return filter.remove(name); }) &&
         std::ranges::all_of(wanted, [&](ChunkName name) { return filter.add(name); });
}

py::list promises(const Directory& directory, const py::bytes& keys, std::size_t first) {
  py::list promised;
  for (const Directory::Promise& promise : directory.promises(keys_of(keys), first)) {
    promised.append(py::make_tuple(promise.peer, promise.chunks));
  }
  return promised;
}

void validate(const Directory& directory) {
  try {
    directory.validate();
  } catch (const std::logic_error& broken) {
    py::set_error(PyExc_AssertionError, broken.what());
    throw py::error_already_set();
  }
}

void bind_filter(py::module_& m) {
  py::register_exception<penstock::FilterMalformed>(m, "FilterMalformed", PyExc_ValueError);
  m.def("chunk_names", &chunk_names, "keys"_a, "Packed names of packed keys.");
  py::class_<CuckooFilter>(m, "CuckooFilter", "An approximate set of chunks.")
      .def(py::init<std::uint64_t>(), "buckets"_a)
      .def_static("buckets_for", &CuckooFilter::buckets_for, "keys"_a)
      .def("change", &change_filter, "gone"_a, "added"_a, "False: it does not fit; make another.")
      .def(
          "contains", [](const CuckooFilter& self, ChunkName name) { return self.contains(name); },
          "name"_a)
      .def("copy", [](const CuckooFilter& self) { return CuckooFilter(self); })
      .def(
          "part",
          [](const CuckooFilter& self, std::uint64_t number) { return packed(self.part(number)); },
          "number"_a, "To be sent, at most 1 MiB.")
      .def_property_readonly("parts", &CuckooFilter::parts)
      .def_property_readonly("keys", &CuckooFilter::keys)
      .def_property_readonly("keys_max", &CuckooFilter::keys_max)
      .def_property_readonly("bytes", &CuckooFilter::bytes)
      .def_property_readonly("is_sparse", &CuckooFilter::is_sparse);
}

}  // namespace

void bind_directory(py::module_& m) {
  bind_filter(m);
  py::class_<Directory> directory(m, "Directory", "What peers have said they have.");
  py::native_enum<Directory::Taken>(directory, "Taken", "enum.Enum", "What a part came to.")
      .value("MORE", Directory::Taken::more)
      .value("WHOLE", Directory::Taken::whole)
      .value("NO_ROOM", Directory::Taken::no_room)
      .finalize();
  directory
      .def(py::init<std::uint64_t, std::uint64_t>(), py::kw_only(), "bytes_max"_a, "seed"_a = 0)
      .def("begin", &Directory::begin, "peer"_a, "A new snapshot of this peer's.")
      .def(
          "take_part",
          [](Directory& self, std::uint32_t peer, const py::bytes& part) {
            return self.take_part(peer, bytes_of(part));
          },
          "peer"_a, "part"_a)
      .def(
          "change",
          [](Directory& self, std::uint32_t peer, const py::bytes& gone, const py::bytes& added) {
            return self.change(peer, names_of(gone), names_of(added));
          },
          "peer"_a, "gone"_a, "added"_a, "False: it does not fit what the peer has said before.")
      .def("forget", &Directory::forget, "peer"_a)
      .def("promises", &promises, "keys"_a, "first"_a = 0, "(peer, chunks), the longest first.")
      .def("bytes_of", py::overload_cast<std::uint32_t>(&Directory::bytes_of, py::const_), "peer"_a)
      .def("keys_of", &Directory::keys_of, "peer"_a)
      .def_property_readonly("bytes", &Directory::bytes)
      .def_property_readonly("bytes_max", &Directory::bytes_max)
      .def("validate", &validate, "Raise AssertionError naming the first broken invariant.");
}
