// Which chunks the L1 table has, as Python sees it.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "bind/table_args.hpp"
#include "core/table.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using namespace penstock::bind;

namespace {

using penstock::ContentChanges;
using penstock::Table;

struct Changes {
  py::bytes added;
  py::bytes gone;
};

struct Residents {
  py::bytes keys;
  std::uint64_t cursor;
  bool over;
};

Changes take_changes(Table& table, std::uint32_t chunks_max) {
  const ContentChanges::Taken taken = table.take_changes(chunks_max);
  return {packed(taken.added), packed(taken.gone)};
}

Residents resident_keys(Table& table, std::uint64_t cursor, std::uint32_t chunks_max) {
  const Table::Residents residents = table.resident_keys(cursor, chunks_max);
  return {packed(residents.keys), residents.cursor, residents.over};
}

}  // namespace

void bind_table_changes(py::module_& m, py::class_<Table>& table) {
  py::class_<Changes>(m, "Changes", "Chunks that came and went.")
      .def_readonly("added", &Changes::added)
      .def_readonly("gone", &Changes::gone);
  py::class_<Residents>(m, "Residents", "A step through all chunks.")
      .def_readonly("keys", &Residents::keys)
      .def_readonly("cursor", &Residents::cursor)
      .def_readonly("is_over", &Residents::over);
  table.def("take_changes", &take_changes, "chunks_max"_a, "What came and went, oldest first.")
      .def("resident_keys", &resident_keys, "cursor"_a, "chunks_max"_a, "A step; 0 begins.")
      .def_property_readonly("changes_due",
                             [](const Table& self) { return self.changes().is_due(); })
      .def_property_readonly("changes_left",
                             [](const Table& self) { return !self.changes().is_empty(); })
      .def_property_readonly("changes_lost",
                             [](const Table& self) { return self.changes().is_lost(); })
      .def_property_readonly("changes_cursor",
                             [](const Table& self) { return self.changes().walked(); });
}
