// The L1 table as Python sees it. Every call keeps the GIL: they are short, and belong to one
// thread.
#include "core/table.hpp"

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "bind/table_args.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using namespace penstock::bind;

void bind_table_words(py::module_& m);  // table_words.cpp
void bind_table_borrowing(py::module_& m, py::class_<penstock::Table>& table);
void bind_table_changes(py::module_& m, py::class_<penstock::Table>& table);
void bind_table_settling(py::class_<penstock::Table>& table);

namespace {

using penstock::Answer;
using penstock::Extent;
using penstock::Group;
using penstock::HitRule;
using penstock::Id;
using penstock::Key;
using penstock::KeyBatch;
using penstock::Outcome;
using penstock::PolicyKind;
using penstock::Pool;
using penstock::Table;
using Slots = std::vector<std::uint16_t>;
using Indices = std::vector<std::uint32_t>;

// A named tuple type, made once and kept for the life of the interpreter.
py::object struct_sequence(const char* name, const char* doc,
                           std::initializer_list<const char*> names) {
  std::vector<PyStructSequence_Field> fields;
  for (const char* field : names) fields.push_back({field, nullptr});
  fields.push_back({nullptr, nullptr});
  PyStructSequence_Desc description{name, doc, fields.data(), static_cast<int>(names.size())};
  PyTypeObject* type = PyStructSequence_NewType(&description);
  if (type == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(type));
}

py::object named_tuple(const py::object& type, std::initializer_list<std::uint32_t> values) {
  PyObject* made = PyStructSequence_New(reinterpret_cast<PyTypeObject*>(type.ptr()));
  if (made == nullptr) throw py::error_already_set();
  Py_ssize_t place = 0;
  for (const std::uint32_t value : values) {
    PyStructSequence_SetItem(made, place++, PyLong_FromUnsignedLong(value));
  }
  return py::reinterpret_steal<py::object>(made);
}

const py::object& hit_type() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> storage;
  return storage
      .call_once_and_store_result([] {
        return struct_sequence("penstock._native.Hit", "What a lookup found.", {"hit", "promised"});
      })
      .get_stored();
}

const py::object& expired_type() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> storage;
  return storage
      .call_once_and_store_result([] {
        return struct_sequence("penstock._native.Expired", "How many expired.",
                               {"read_leases", "write_leases", "tickets"});
      })
      .get_stored();
}

// What calls answer: packed at once, so that Python never makes an object per chunk.
struct Acquired {
  py::bytes lease;
  py::bytes extents;
  std::uint32_t chunks;
};

struct Reserved {
  py::bytes answers;
  py::bytes extents;
  std::uint64_t bytes_missing;
  std::uint64_t own_bytes_missing;
};

struct Evicted {
  std::uint64_t bytes;
  std::uint64_t quarantined_bytes;
  std::size_t chunks;
  std::uint32_t objects;
  bool over;
  py::bytes keys;
};

Table::TicketRequest ticket_request(const py::bytes& ticket, std::uint32_t geometry,
                                    std::uint64_t instance, std::uint32_t readers, double now,
                                    double expires) {
  return {id_of(ticket), geometry, instance, readers, now, expires};
}

py::object lookup(Table& table, const py::bytes& keys, std::uint32_t geometry,
                  const py::bytes& ticket, std::uint64_t instance, std::uint32_t readers,
                  double now, double expires) {
  const Table::Hit hit = table.lookup(
      keys_of(keys), ticket_request(ticket, geometry, instance, readers, now, expires));
  return named_tuple(hit_type(), {hit.hit, hit.promised});
}

void open_ticket(Table& table, const py::bytes& ticket, std::uint32_t geometry,
                 std::uint64_t instance, std::uint32_t readers, double now, double expires) {
  table.open_ticket(ticket_request(ticket, geometry, instance, readers, now, expires));
}

Acquired acquire(Table& table, const py::bytes& ticket, std::uint32_t rank, const Slots& slots,
                 std::uint32_t first_chunk, const py::bytes& lease, std::uint64_t session,
                 double now, double expires) {
  const Table::Acquired acquired =
      table.acquire(id_of(ticket), {rank, slots, first_chunk, id_of(lease), session, now, expires});
  return {id_bytes(acquired.lease), packed(acquired.extents), acquired.chunks};
}

Reserved reserve(Table& table, const py::bytes& keys, const py::bytes& parent,
                 std::uint32_t geometry, const Slots& slots, std::uint32_t tenant,
                 const py::bytes& lease, std::uint64_t session, double now, double expires,
                 Pool pool) {
  std::optional<Key> parent_key;
  if (!bytes_of(parent).empty()) parent_key = key_of(parent);
  const Table::Reserved reserved = table.reserve(
      keys_of(keys),
      {parent_key, geometry, slots, tenant, id_of(lease), session, now, expires, pool});
  return {packed(reserved.answers), packed(reserved.extents), reserved.bytes_missing,
          reserved.own_bytes_missing};
}

py::object expire(Table& table, double now, std::uint32_t objects_max) {
  const Table::Expired expired = table.expire(now, objects_max);
  return named_tuple(expired_type(), {expired.read_leases, expired.write_leases, expired.tickets});
}

Evicted to_python(const Table::Evicted& evicted) {
  return {evicted.bytes, evicted.quarantined_bytes, evicted.keys.size(), evicted.objects,
          evicted.over,  packed(evicted.keys)};
}

Evicted evict(Table& table, std::uint64_t bytes_wanted, std::uint32_t chunks_max, double now) {
  return to_python(table.evict(bytes_wanted, chunks_max, now));
}

Evicted evict_own(Table& table, std::uint32_t tenant, std::uint64_t bytes_wanted,
                  std::uint32_t chunks_max, double now) {
  return to_python(table.evict_own(tenant, bytes_wanted, chunks_max, now));
}

Evicted evict_these(Table& table, const py::bytes& keys, double now) {
  return to_python(table.evict_these(keys_of(keys), now));
}

void validate(Table& table) {
  try {
    table.validate();
  } catch (const std::logic_error& broken) {
    PyErr_SetString(PyExc_AssertionError, broken.what());
    throw py::error_already_set();
  }
}

void bind_answers(py::module_& m) {
  m.attr("Hit") = hit_type();
  m.attr("Expired") = expired_type();
  py::class_<Acquired>(m, "Acquired", "A read lease.")
      .def_readonly("lease", &Acquired::lease)
      .def_readonly("extents", &Acquired::extents)
      .def_readonly("chunks", &Acquired::chunks);
  py::class_<Reserved>(m, "Reserved", "The answers to a reservation.")
      .def_readonly("answers", &Reserved::answers)
      .def_readonly("extents", &Reserved::extents)
      .def_readonly("bytes_missing", &Reserved::bytes_missing)
      .def_readonly("own_bytes_missing", &Reserved::own_bytes_missing);
  py::class_<Evicted>(m, "Evicted", "What an eviction freed.")
      .def_readonly("bytes", &Evicted::bytes)
      .def_readonly("quarantined_bytes", &Evicted::quarantined_bytes)
      .def_readonly("chunks", &Evicted::chunks)
      .def_readonly("objects", &Evicted::objects)
      .def_readonly("is_over", &Evicted::over)
      .def_readonly("keys", &Evicted::keys);
}

void bind_reading(py::class_<Table>& table) {
  table
      .def(
          "peek",
          [](Table& self, const py::bytes& keys, std::uint32_t geometry) {
            return self.peek(keys_of(keys), geometry);
          },
          "keys"_a, py::kw_only(), "geometry"_a, "Hit chunks now. Changes nothing.")
      .def(
          "promised",
          [](Table& self, const py::bytes& keys, std::uint32_t geometry) {
            return self.promised(keys_of(keys), geometry);
          },
          "keys"_a, py::kw_only(), "geometry"_a, "Hit chunks if all in flight were readable.")
      .def("lookup", &lookup, "keys"_a, py::kw_only(), "geometry"_a, "ticket"_a, "instance"_a,
           "readers"_a, "now"_a, "expires"_a, "The hit, pinned for a ticket if there is any.")
      .def("open_ticket", &open_ticket, "ticket"_a, py::kw_only(), "geometry"_a, "instance"_a,
           "readers"_a, "now"_a, "expires"_a, "A ticket of no chunks, to be extended.")
      .def(
          "extend",
          [](Table& self, const py::bytes& ticket, const py::bytes& keys, double now) {
            return self.extend(id_of(ticket), keys_of(keys), now);
          },
          "ticket"_a, "keys"_a, py::kw_only(), "now"_a, "Pin what has become readable.")
      .def(
          "follow",
          [](Table& self, const py::bytes& ticket, const py::bytes& keys, double now) {
            const Table::Hit hit = self.follow(id_of(ticket), keys_of(keys), now);
            return named_tuple(hit_type(), {hit.hit, hit.promised});
          },
          "ticket"_a, "keys"_a, py::kw_only(), "now"_a, "As extend, RESIDENT objects only.")
      .def(
          "step",
          [](Table& self, const py::bytes& ticket, const py::bytes& keys, double now) {
            const Table::Hit hit = self.step(id_of(ticket), keys_of(keys), now);
            return named_tuple(hit_type(), {hit.hit, hit.promised});
          },
          "ticket"_a, "keys"_a, py::kw_only(), "now"_a,
          "As follow, at the cost of what is new: more is promised than hit if the next is coming.")
      .def(
          "has_ticket",
          [](Table& self, const py::bytes& ticket) { return self.has_ticket(id_of(ticket)); },
          "ticket"_a, "Whether it is not over.")
      .def(
          "tell_end", [](Table& self, const py::bytes& ticket) { self.tell_end(id_of(ticket)); },
          "ticket"_a, "Its end is told by take_ended.")
      .def(
          "take_ended", [](Table& self) { return packed(self.take_ended()); },
          "Packed ids of tickets that came to their end.")
      .def(
          "presence",
          [](Table& self, const py::bytes& keys, std::uint32_t geometry) {
            return packed(self.presence(keys_of(keys), geometry));
          },
          "keys"_a, py::kw_only(), "geometry"_a, "One byte of Presence for each object.")
      .def("acquire", &acquire, "ticket"_a, py::kw_only(), "rank"_a, "slots"_a, "first_chunk"_a,
           "lease"_a, "session"_a, "now"_a, "expires"_a, "Turn a reader slot into a lease.")
      .def(
          "release",
          [](Table& self, const py::bytes& lease, std::uint64_t session, const Indices& damaged,
             double now) { return self.release(id_of(lease), session, damaged, now); },
          "lease"_a, py::kw_only(), "session"_a, "damaged"_a = Indices{}, "now"_a,
          "End a read lease. STALE: discard what was copied.")
      .def(
          "close_ticket",
          [](Table& self, const py::bytes& ticket, std::uint64_t instance) {
            return self.close_ticket(id_of(ticket), instance);
          },
          "ticket"_a, py::kw_only(), "instance"_a, "Its pins go; leases made from it live on.")
      .def(
          "chunks_of",
          [](Table& self, const py::bytes& ticket) { return self.chunks_of(id_of(ticket)); },
          "ticket"_a, "How many chunks a ticket pins.")
      .def(
          "touch",
          [](Table& self, const py::bytes& keys, double now) {
            return self.touch(keys_of(keys), now);
          },
          "keys"_a, py::kw_only(), "now"_a, "Make chunks recent. How many are resident.");
}

void bind_writing(py::class_<Table>& table) {
  table
      .def("reserve", &reserve, "keys"_a, py::kw_only(), "parent"_a, "geometry"_a, "slots"_a,
           "tenant"_a, "lease"_a, "session"_a, "now"_a, "expires"_a, "pool"_a = Pool::cache,
           "Ask for extents to write, chunk by chunk.")
      .def(
          "make_ready",
          [](Table& self, const py::bytes& keys, std::uint32_t geometry, const Slots& slots,
             std::uint32_t chunks_before) {
            self.make_ready(keys_of(keys), geometry, slots, chunks_before);
          },
          "keys"_a, py::kw_only(), "geometry"_a, "slots"_a, "chunks_before"_a = 0,
          "Back the memory that reserving them will write.");
}

void bind_life(py::class_<Table>& table) {
  table
      .def("expire", &expire, "now"_a, py::kw_only(), "objects_max"_a = UINT32_MAX,
           "End what expires at or before `now`.")
      .def("next_expiry", &Table::next_expiry, "Earliest expiry; inf if there is none.")
      .def("stream_lost", &Table::stream_lost, "session"_a, "Orphan all its leases.")
      .def("process_gone", &Table::session_over, "session"_a, "Proven dead: all of it is free.")
      .def("give_up", &Table::session_over, "session"_a, "Its living owner touches it no more.")
      .def("orphan_some", &Table::orphan_some, "session"_a, "objects_max"_a,
           "A step of stream_lost.")
      .def("forsake_some", &Table::forsake_some, "session"_a, "objects_max"_a,
           "pool"_a = Pool::cache, "As orphan_some, of its reservations in one pool alone.")
      .def("end_some", &Table::end_some, "session"_a, "objects_max"_a, "A step of process_gone.")
      .def("instance_gone", &Table::instance_gone, "instance"_a, "Close its tickets.")
      .def("close_some", &Table::close_some, "instance"_a, "chunks_max"_a,
           "A step of instance_gone.")
      .def("evict", &evict, "bytes_wanted"_a, py::kw_only(), "chunks_max"_a = UINT32_MAX, "now"_a,
           "Free leaves by policy.")
      .def("evict_own", &evict_own, "tenant"_a, "bytes_wanted"_a, py::kw_only(),
           "chunks_max"_a = UINT32_MAX, "now"_a, "The same of a tenant's own, under a quota.")
      .def("evict_these", &evict_these, "keys"_a, py::kw_only(), "now"_a,
           "Free those of these chunks that nobody holds.")
      .def(
          "drop", [](Table& self, const py::bytes& keys) { return self.drop(keys_of(keys)); },
          "keys"_a, "Invalidate chunks. How many were resident.")
      .def_property_readonly("free_bytes", &Table::free_bytes, "Arena bytes that nobody has.")
      .def("statistics", &Table::statistics, "All gauges and counters.")
      .def("validate", &validate, "Raise AssertionError naming the first broken invariant.")
      .def(
          "story", [](Table& self, const py::bytes& key) { return self.story(key_of(key)); },
          "key"_a, "The kept events of a chunk, oldest first.")
      .def_property_readonly("return_fd", &Table::return_fd, "Readable when handles have died.")
      .def(
          "lease_handle",
          [](Table& self, const py::bytes& lease, std::uint64_t session) {
            return self.lease_handle(id_of(lease), session);
          },
          "lease"_a, py::kw_only(), "session"_a, "Ends the lease when it dies, anywhere.")
      .def(
          "ticket_handle",
          [](Table& self, const py::bytes& ticket, std::uint64_t instance) {
            return self.ticket_handle(id_of(ticket), instance);
          },
          "ticket"_a, py::kw_only(), "instance"_a, "Closes the ticket when it dies, anywhere.")
      .def("drain", &Table::drain, "End what dead handles held. How many there were.");
}

}  // namespace

void bind_table(py::module_& m) {
  bind_table_words(m);
  bind_answers(m);
  py::class_<Table> table(m, "Table", "The index of L1 and the state of every object in it.");
  table
      .def(py::init([](std::uint64_t arena_bytes, std::uint64_t pd_bytes, std::uint32_t objects_max,
                       std::uint32_t pd_objects_max, PolicyKind policy,
                       std::uint64_t quarantine_bytes_max, std::uint32_t leases_max,
                       std::uint32_t tickets_max, std::uint32_t story_events_max,
                       std::uint32_t news_max, std::uint32_t changes_max, bool fair_share,
                       std::uint64_t hash_seed) {
             return std::make_unique<Table>(
                 penstock::TableConfig{.arena_bytes = arena_bytes,
                                       .pd_bytes = pd_bytes,
                                       .objects_max = objects_max,
                                       .pd_objects_max = pd_objects_max,
                                       .policy = policy,
                                       .quarantine_bytes_max = quarantine_bytes_max,
                                       .leases_max = leases_max,
                                       .tickets_max = tickets_max,
                                       .story_events_max = story_events_max,
                                       .news_max = news_max,
                                       .changes_max = changes_max,
                                       .fair_share = fair_share,
                                       .hash_seed = hash_seed});
           }),
           py::kw_only(), "arena_bytes"_a, "pd_bytes"_a = 0, "objects_max"_a,
           "pd_objects_max"_a = 0, "policy"_a, "quarantine_bytes_max"_a, "leases_max"_a = 65536,
           "tickets_max"_a = 65536, "story_events_max"_a = 0, "news_max"_a = 0, "changes_max"_a = 0,
           "fair_share"_a = false, "hash_seed"_a = 0)
      .def(
          "add_geometry",
          [](Table& self, std::vector<Group> groups) {
            return self.add_geometry(std::move(groups));
          },
          "groups"_a, "Register groups; a new number on every call.")
      .def("set_quota", &Table::set_quota, "tenant"_a, "bytes_max"_a, "0: none.")
      .def("bytes_of", &Table::bytes_of, "tenant"_a, "Arena bytes of a tenant's objects.")
      .def("attach", &Table::attach, "session"_a, py::kw_only(), "instance"_a, "A new process.");
  bind_reading(table);
  bind_writing(table);
  bind_life(table);
  bind_table_borrowing(m, table);
  bind_table_changes(m, table);
  bind_table_settling(table);
}
