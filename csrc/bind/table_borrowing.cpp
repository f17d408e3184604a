// What the node itself reads of the L1 table, as Python sees it.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "bind/table_args.hpp"
#include "core/table.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using namespace penstock::bind;

namespace {

using penstock::CommitNews;
using penstock::Table;

static_assert(sizeof(Table::BorrowedObject) == 40);

struct Borrowed {
  std::uint32_t geometry;
  std::size_t count;
  py::bytes keys;
  py::bytes objects;
  py::bytes runs;
  std::uint64_t bytes;
  py::bytes named_keys;
  py::bytes named_slots;
  std::uint64_t named_bytes;
  std::uint32_t gone;
  bool over;
};

Borrowed to_python(const Table::Borrowed& borrowed) {
  std::vector<penstock::Key> keys;
  std::vector<std::uint16_t> slots;
  std::uint64_t named_bytes = 0;
  for (const CommitNews::Item& item : borrowed.named) {
    keys.push_back(item.key);
    slots.push_back(item.slot);
    named_bytes += item.bytes;
  }
  return {borrowed.geometry,     borrowed.objects.size(),
          packed(borrowed.keys), packed(borrowed.objects),
          packed(borrowed.runs), borrowed.bytes,
          packed(keys),          packed(slots),
          named_bytes,           borrowed.gone,
          borrowed.over};
}

Borrowed borrow(Table& table, const py::bytes& keys, std::uint32_t geometry, const py::bytes& lease,
                std::uint64_t session, double now, double expires, const py::bytes& wanted) {
  return to_python(table.borrow(keys_of(keys), geometry, {id_of(lease), session, now, expires},
                                std::string_view(wanted)));
}

Borrowed borrow_writing(Table& table, const py::bytes& writing, std::uint64_t writer,
                        const py::bytes& indices, const py::bytes& lease, std::uint64_t session,
                        double now, double expires) {
  return to_python(table.borrow_writing(id_of(writing), writer,
                                        words_of<std::uint32_t>(indices, "indices"),
                                        {id_of(lease), session, now, expires}));
}

Borrowed take_committed(Table& table, std::uint32_t objects_max, std::uint64_t bytes_max,
                        const py::bytes& lease, std::uint64_t session, double now, double expires) {
  return to_python(
      table.take_committed(objects_max, bytes_max, {id_of(lease), session, now, expires}));
}

Borrowed victims(Table& table, std::uint64_t bytes_wanted, std::uint32_t chunks_max,
                 const py::bytes& lease, std::uint64_t session, double now, double expires) {
  return to_python(table.victims(bytes_wanted, chunks_max, {id_of(lease), session, now, expires}));
}

Borrowed victims_own(Table& table, std::uint32_t tenant, std::uint64_t bytes_wanted,
                     std::uint32_t chunks_max, const py::bytes& lease, std::uint64_t session,
                     double now, double expires) {
  return to_python(
      table.victims_own(tenant, bytes_wanted, chunks_max, {id_of(lease), session, now, expires}));
}

void bind_borrowed(py::module_& m) {
  py::class_<Borrowed>(m, "Borrowed", "What the node holds to read.")
      .def_readonly("geometry", &Borrowed::geometry)
      .def_readonly("count", &Borrowed::count)
      .def_readonly("keys", &Borrowed::keys)
      .def_readonly("objects", &Borrowed::objects)
      .def_readonly("runs", &Borrowed::runs)
      .def_readonly("bytes", &Borrowed::bytes)
      .def_readonly("named_keys", &Borrowed::named_keys)
      .def_readonly("named_slots", &Borrowed::named_slots)
      .def_readonly("named_bytes", &Borrowed::named_bytes)
      .def_readonly("gone", &Borrowed::gone)
      .def_readonly("is_over", &Borrowed::over);
}

}  // namespace

void bind_table_borrowing(py::module_& m, py::class_<Table>& table) {
  bind_borrowed(m);
  table
      .def("borrow", &borrow, "keys"_a, py::kw_only(), "geometry"_a, "lease"_a, "session"_a,
           "now"_a, "expires"_a, "wanted"_a = py::bytes(),
           "A read lease of the resident objects of these chunks.")
      .def("borrow_writing", &borrow_writing, "writing"_a, "writer"_a, "indices"_a, py::kw_only(),
           "lease"_a, "session"_a, "now"_a, "expires"_a,
           "A read lease of what a write lease has reserved.")
      .def("take_committed", &take_committed, "objects_max"_a, "bytes_max"_a, py::kw_only(),
           "lease"_a, "session"_a, "now"_a, "expires"_a, "The oldest news of commits, borrowed.")
      .def("victims", &victims, "bytes_wanted"_a, "chunks_max"_a, py::kw_only(), "lease"_a,
           "session"_a, "now"_a, "expires"_a, "What evict would take next, borrowed.")
      .def("victims_own", &victims_own, "tenant"_a, "bytes_wanted"_a, "chunks_max"_a, py::kw_only(),
           "lease"_a, "session"_a, "now"_a, "expires"_a,
           "What evict_own would take next, borrowed.")
      .def(
          "drop_objects",
          [](Table& self, const py::bytes& keys, const py::bytes& slots) {
            return self.drop_objects(keys_of(keys), words_of<std::uint16_t>(slots, "slots"));
          },
          "keys"_a, "slots"_a, "Invalidate single objects. How many were resident.")
      .def(
          "let_go",
          [](Table& self, const py::bytes& lease, std::uint64_t session, double now) {
            return self.let_go(id_of(lease), session, now);
          },
          "lease"_a, py::kw_only(), "session"_a, "now"_a, "A read lease is overdue from now on.")
      .def("set_weight", &Table::set_weight, "tenant"_a, "weight"_a, "Of a tenant's share.")
      .def_property_readonly("news_waiting", [](const Table& self) { return self.news().size(); })
      .def_property_readonly("news_bytes", [](const Table& self) { return self.news().bytes(); })
      .def_property_readonly("news_lost", [](const Table& self) { return self.news().lost(); });
}
