// The words of the L1 table as Python sees them: refusals, answers, groups, numbers.
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "core/table.hpp"

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

using penstock::Answer;
using penstock::Group;
using penstock::HitRule;
using penstock::Outcome;
using penstock::PolicyKind;
using penstock::Pool;
using penstock::Presence;

void bind_errors(py::module_& m) {
  // Each is registered after its base, so that it is tried before it.
  const auto& base = py::register_exception<penstock::TableError>(m, "TableError");
  py::register_exception<penstock::WrongThread>(m, "WrongThread", base);
  py::register_exception<penstock::GeometryUnknown>(m, "GeometryUnknown", base);
  py::register_exception<penstock::SessionUnknown>(m, "SessionUnknown", base);
  py::register_exception<penstock::TicketUnknown>(m, "TicketUnknown", base);
  py::register_exception<penstock::RankTaken>(m, "RankTaken", base);
  py::register_exception<penstock::QuarantineFull>(m, "QuarantineFull", base);
  py::register_exception<penstock::TableFull>(m, "TableFull", base);
  py::register_exception<penstock::IdTaken>(m, "IdTaken", base);
  const py::tuple value_error = py::make_tuple(base, py::handle(PyExc_ValueError));
  py::register_exception<penstock::BadKeys>(m, "BadKeys", value_error);
  py::register_exception<penstock::BadArgument>(m, "BadArgument", value_error);
}

void bind_words(py::module_& m) {
  py::native_enum<Answer>(m, "Answer", "enum.IntEnum", "What Reserve says of one object.")
      .value("GRANTED", Answer::granted)
      .value("RESIDENT", Answer::resident)
      .value("IN_FLIGHT", Answer::in_flight)
      .value("NO_ROOM", Answer::no_room)
      .value("QUOTA", Answer::quota)
      .finalize();
  py::native_enum<Presence>(m, "Presence", "enum.IntEnum", "Of one object that a reader wants.")
      .value("ABSENT", Presence::absent)
      .value("RESIDENT", Presence::resident)
      .value("COMING", Presence::coming)
      .finalize();
  py::native_enum<Outcome>(m, "Outcome", "enum.IntEnum", "Whether a lease was still good.")
      .value("OK", Outcome::ok)
      .value("STALE", Outcome::stale)
      .finalize();
  py::native_enum<Pool>(m, "Pool", "enum.Enum", "Which part of the arena.")
      .value("CACHE", Pool::cache)
      .value("PD", Pool::pd)
      .finalize();
  py::native_enum<HitRule>(m, "Rule", "enum.Enum", "What a hit of n chunks needs of a group.")
      .value("FULL", HitRule::full)
      .value("WINDOW", HitRule::window)
      .value("STATE", HitRule::state)
      .finalize();
  py::native_enum<PolicyKind>(m, "Policy", "enum.Enum", "Which chunk goes first.")
      .value("LRU", PolicyKind::lru)
      .value("S3FIFO", PolicyKind::s3fifo)
      .value("SIEVE", PolicyKind::sieve)
      .value("ARC", PolicyKind::arc)
      .value("TINYLFU", PolicyKind::tinylfu)
      .value("PROSPECT", PolicyKind::prospect)
      .finalize();
  py::class_<Group>(m, "Group", "One layer group of a geometry.")
      .def(py::init([](HitRule rule, std::vector<std::uint64_t> shard_bytes,
                       std::vector<std::uint32_t> shard_runs, std::uint32_t window_chunks) {
             return Group{rule, window_chunks, std::move(shard_bytes), std::move(shard_runs)};
           }),
           py::kw_only(), "rule"_a, "shard_bytes"_a, "shard_runs"_a = std::vector<std::uint32_t>{},
           "window_chunks"_a = 0);
}

void bind_statistics(py::module_& m) {
  using Ended = penstock::Table::Ended;
  py::class_<Ended>(m, "Ended", "What one step has ended.")
      .def_readonly("count", &Ended::count)
      .def_readonly("is_over", &Ended::over);
  using S = penstock::Table::Statistics;
  py::class_<S>(m, "Statistics", "Gauges in arena bytes and counts, and counters.")
      .def_readonly("bytes_total", &S::bytes_total)
      .def_readonly("bytes_free", &S::bytes_free)
      .def_readonly("bytes_reserved", &S::bytes_reserved)
      .def_readonly("bytes_loaded", &S::bytes_loaded)
      .def_readonly("bytes_resident", &S::bytes_resident)
      .def_readonly("bytes_quarantined", &S::bytes_quarantined)
      .def_readonly("bytes_pinned", &S::bytes_pinned)
      .def_readonly("largest_free_bytes", &S::largest_free_bytes)
      .def_readonly("chunks", &S::chunks)
      .def_readonly("placeholders", &S::placeholders)
      .def_readonly("objects", &S::objects)
      .def_readonly("leases", &S::leases)
      .def_readonly("overdue_leases", &S::overdue_leases)
      .def_readonly("tickets", &S::tickets)
      .def_readonly("sessions", &S::sessions)
      .def_readonly("metadata_bytes", &S::metadata_bytes)
      .def_readonly("evicted_chunks", &S::evicted_chunks)
      .def_readonly("evicted_bytes", &S::evicted_bytes)
      .def_readonly("damaged_objects", &S::damaged_objects)
      .def_readonly("discarded_objects", &S::discarded_objects)
      .def_readonly("expired_leases", &S::expired_leases)
      .def_readonly("stale_calls", &S::stale_calls)
      .def_readonly("returned_handles", &S::returned_handles)
      .def_readonly("pd_bytes_total", &S::pd_bytes_total)
      .def_readonly("pd_bytes_free", &S::pd_bytes_free)
      .def_readonly("pd_bytes_reserved", &S::pd_bytes_reserved)
      .def_readonly("pd_bytes_loaded", &S::pd_bytes_loaded)
      .def_readonly("pd_bytes_quarantined", &S::pd_bytes_quarantined)
      .def_readonly("pd_largest_free_bytes", &S::pd_largest_free_bytes);
}

void bind_handles(py::module_& m) {
  using penstock::LeaseHandle;
  py::class_<LeaseHandle>(m, "LeaseHandle", "Ends a lease or ticket when it dies.")
      .def("give_back", &LeaseHandle::give_back, "Now. Any thread. Twice is once.")
      .def("forget", &LeaseHandle::forget, "It was ended otherwise.")
      .def(
          "__enter__", [](LeaseHandle& self) -> LeaseHandle& { return self; },
          py::return_value_policy::reference_internal)
      .def("__exit__", [](LeaseHandle& self, const py::args&) { self.give_back(); });
}

}  // namespace

void bind_table_words(py::module_& m) {
  bind_errors(m);
  bind_words(m);
  bind_statistics(m);
  bind_handles(m);
}
