// TCP data channels as Python sees them.
#include "io/channel.hpp"

#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bind/held_bytes.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using penstock::bind::HeldBytes;
using penstock::io::ChannelEndpoint;
using penstock::io::ChannelOptions;
using penstock::io::LandingSlot;
using penstock::io::News;
using penstock::io::PieceToSend;

namespace {

using Objects = std::vector<py::object>;

// Objects and the buffers they lend. Made and destroyed with the GIL held.
struct Lent {
  Lent(Objects given, const Objects& buffers, int flags)
      : objects(std::move(given)), bytes(buffers, flags) {}
  Objects objects;
  HeldBytes bytes;
};

template <typename Fixed>
Fixed fixed(const py::bytes& given, const char* what) {
  const std::string_view bytes = given;
  Fixed made{};
  if (bytes.size() != made.size()) {
    throw py::value_error(std::string(what) + " has " + std::to_string(made.size()) +
                          " bytes, not " + std::to_string(bytes.size()));
  }
  std::memcpy(made.data(), bytes.data(), made.size());
  return made;
}

Objects attributes(const Objects& of, const char* name) {
  const py::str key = py::reinterpret_steal<py::str>(PyUnicode_InternFromString(name));
  Objects found;
  found.reserve(of.size());
  for (const py::object& one : of) found.push_back(one.attr(key));
  return found;
}

// Of a number that Python knows. Raises OverflowError, TypeError.
std::uint64_t number_of(const py::object& one) {
  const auto number = PyLong_AsUnsignedLongLong(one.ptr());
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  return number;
}

std::uint64_t open_landing(ChannelEndpoint& endpoint, std::uint64_t connection,
                           const py::bytes& token, Objects slots) {
  const Objects memories = attributes(slots, "memory");
  auto lent = std::make_shared<Lent>(std::move(slots), memories, PyBUF_WRITABLE);
  std::vector<LandingSlot> made(memories.size());
  for (std::size_t at = 0; at < made.size(); ++at) {
    const auto bytes = lent->bytes[at];
    made[at] = {.data = const_cast<std::byte*>(bytes.data()), .bytes = bytes.size()};
  }
  return endpoint.open_landing(connection, fixed<penstock::io::Token>(token, "a token"),
                               std::move(made), std::move(lent));
}

bool close_landing(ChannelEndpoint& endpoint, std::uint64_t connection, const py::bytes& token) {
  return endpoint.close_landing(connection, fixed<penstock::io::Token>(token, "a token"));
}

std::uint64_t send_pieces(ChannelEndpoint& endpoint, std::uint64_t connection,
                          const py::bytes& token, Objects pieces) {
  const Objects payloads = attributes(pieces, "payload");
  const Objects numbers = attributes(pieces, "number");
  const Objects offsets = attributes(pieces, "offset");
  const Objects slots = attributes(pieces, "slot");
  auto lent = std::make_shared<Lent>(std::move(pieces), payloads, PyBUF_SIMPLE);
  std::vector<PieceToSend> made(payloads.size());
  for (std::size_t at = 0; at < made.size(); ++at) {
    const std::uint64_t slot = number_of(slots[at]);
    if (slot > UINT32_MAX) throw py::value_error("a slot is a number of 32 bits");
    made[at] = {.number = number_of(numbers[at]),
                .offset = number_of(offsets[at]),
                .slot = std::uint32_t(slot),
                .data = lent->bytes[at].data(),
                .bytes = lent->bytes[at].size()};
  }
  return endpoint.send(connection, fixed<penstock::io::Token>(token, "a token"), std::move(made),
                       std::move(lent));
}

using Told =
    std::tuple<unsigned, std::uint64_t, std::uint64_t, std::vector<std::uint64_t>, std::string>;

std::vector<Told> told(ChannelEndpoint& endpoint, std::size_t count_max) {
  std::vector<Told> all;
  for (News& one : endpoint.told(count_max)) {
    all.emplace_back(unsigned(one.kind), one.id, one.of, std::move(one.numbers),
                     std::move(one.reason));
  }
  return all;
}

std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t> counts(
    ChannelEndpoint& endpoint, std::uint64_t connection) {
  const auto of = endpoint.counts(connection);
  return {of.bytes_sent, of.bytes_received, of.pieces_sent, of.pieces_received, of.pieces_refused};
}

std::uint64_t dial(ChannelEndpoint& endpoint, std::string host, std::uint16_t port,
                   const py::bytes& name, const py::bytes& secret) {
  return endpoint.dial({.host = std::move(host), .port = port},
                       fixed<penstock::io::Token>(name, "a connection's name"),
                       fixed<penstock::io::Secret>(secret, "a secret"));
}

std::uint64_t expect(ChannelEndpoint& endpoint, const py::bytes& secret) {
  return endpoint.expect(fixed<penstock::io::Secret>(secret, "a secret"));
}

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(std::llround(seconds * 1000));
}

std::unique_ptr<ChannelEndpoint> make(unsigned threads, unsigned streams,
                                      std::size_t connections_max, std::size_t strangers_max,
                                      double hello_within, double peer_timeout,
                                      std::uint64_t part_bytes, std::uint64_t receive_bytes,
                                      std::uint64_t socket_buffer_bytes, std::size_t arrivals_max,
                                      std::size_t landings_max, std::size_t pieces_max) {
  return std::make_unique<ChannelEndpoint>(
      ChannelOptions{.threads = threads,
                     .streams = streams,
                     .connections_max = connections_max,
                     .strangers_max = strangers_max,
                     .hello_within = milliseconds(hello_within),
                     .peer_timeout = milliseconds(peer_timeout),
                     .part_bytes = part_bytes,
                     .receive_bytes = receive_bytes,
                     .socket_buffer_bytes = socket_buffer_bytes,
                     .arrivals_max = arrivals_max,
                     .landings_max = landings_max,
                     .pieces_max = pieces_max});
}

}  // namespace

void bind_channel(py::module_& m) {
  py::register_exception<penstock::io::ChannelEnded>(m, "ChannelEnded");
  py::native_enum<News::Kind>(m, "ChannelNews", "enum.IntEnum", "What told() says.")
      .value("CONNECTED", News::Kind::connected)
      .value("ACCEPTED", News::Kind::accepted)
      .value("ARRIVED", News::Kind::arrived)
      .value("SENT", News::Kind::sent)
      .value("FAILED", News::Kind::failed)
      .value("DRAINED", News::Kind::drained)
      .value("LOST", News::Kind::lost)
      .value("REFUSED", News::Kind::refused)
      .finalize();

  // Nothing here waits but close, which releases the GIL: what is kept dies in other calls only.
  py::class_<ChannelEndpoint>(m, "ChannelEndpoint", "TCP data channels of one node.")
      .def(py::init(&make), py::kw_only(), "threads"_a, "streams"_a, "connections_max"_a,
           "strangers_max"_a, "hello_within"_a, "peer_timeout"_a, "part_bytes"_a, "receive_bytes"_a,
           "socket_buffer_bytes"_a, "arrivals_max"_a, "landings_max"_a, "pieces_max"_a)
      .def_property_readonly("event_fd", &ChannelEndpoint::event_fd)
      .def("told", &told, "count_max"_a)
      .def("listen", &ChannelEndpoint::listen, "fd"_a)
      .def("expect", &expect, "secret"_a)
      .def("forget", &ChannelEndpoint::forget, "number"_a)
      .def("dial", &dial, "host"_a, "port"_a, "name"_a, "secret"_a)
      .def("end", &ChannelEndpoint::end, "connection"_a, "reason"_a)
      .def("counts", &counts, "connection"_a)
      .def("release", &ChannelEndpoint::release, "connection"_a)
      .def("open_landing", &open_landing, "connection"_a, "token"_a, "slots"_a)
      .def("close_landing", &close_landing, "connection"_a, "token"_a)
      .def("send", &send_pieces, "connection"_a, "token"_a, "pieces"_a)
      .def("cancel_send", &ChannelEndpoint::cancel_send, "connection"_a, "id"_a)
      .def("close", &ChannelEndpoint::close, py::call_guard<py::gil_scoped_release>());
}
