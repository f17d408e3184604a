// The arena as Python sees it.
#include "core/arena.hpp"

#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <span>

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

// Memory of a mapping together with a share in it, so that a view outlives close().
struct View {
  std::shared_ptr<const penstock::Mapping> mapping;
  std::span<std::byte> memory;
};

template <typename Owner>
py::memoryview view(const Owner& owner, std::uint64_t offset, std::uint64_t bytes) {
  return py::memoryview(py::cast(View{owner.mapping(), owner.mapping()->range(offset, bytes)}));
}

template <typename Owner>
std::uintptr_t address(const Owner& owner) {
  return reinterpret_cast<std::uintptr_t>(owner.mapping()->address());
}

}  // namespace

void bind_arena(py::module_& m) {
  using penstock::Arena;
  using penstock::ArenaMapping;
  using penstock::Pages;
  using release_gil = py::call_guard<py::gil_scoped_release>;

  py::register_exception<penstock::ArenaRefused>(m, "ArenaRefused", PyExc_ValueError);

  py::native_enum<Pages>(m, "Pages", "enum.Enum", "What pages an arena got.")
      .value("SMALL", Pages::kSmall)
      .value("HUGE_2M", Pages::kHuge2M)
      .value("HUGE_1G", Pages::kHuge1G)
      .value("TRANSPARENT", Pages::kTransparent)
      .finalize();

  py::class_<View>(m, "_ArenaView", py::buffer_protocol()).def_buffer([](const View& of) {
    return py::buffer_info(reinterpret_cast<std::uint8_t*>(of.memory.data()),
                           static_cast<py::ssize_t>(of.memory.size()));
  });

  py::class_<Arena>(m, "Arena",
                    "The node's L1 memory: an unnamed, sealed file, mapped. One thread.")
      .def(py::init<std::uint64_t>(), py::kw_only(), "bytes"_a, release_gil(),
           "Create and map. Raises ArenaRefused: 0, not a multiple of 4096, more than the machine "
           "has.")
      .def_property_readonly("bytes", &Arena::bytes, "Size, in bytes.")
      .def_property_readonly("fd", &Arena::fd, "The descriptor to hand to engines; -1 when closed.")
      .def_property_readonly("address", &address<Arena>, "Where it is mapped here.")
      .def_property_readonly("pages", &Arena::pages, "What pages it got.")
      .def_property_readonly("page_bytes", &Arena::page_bytes, "Size of such a page.")
      .def_property_readonly("huge_page_reason", &Arena::huge_page_reason,
                             "Why they are not hugetlb pages; empty when they are.")
      .def_property_readonly("numa_nodes", &Arena::numa_nodes, "Memory nodes it may lie on.")
      .def_property_readonly("numa_reason", &Arena::numa_reason,
                             "How it is spread over them, or why it is not.")
      .def("start_prefault", &Arena::start_prefault, py::kw_only(), "threads"_a = 1,
           "Back it with memory in the background. 1 to 64 threads, once.")
      .def_property_readonly("prefaulted_bytes", &Arena::prefaulted_bytes, "Backed so far.")
      .def_property_readonly(
          "prefault_error", &Arena::prefault_error,
          "Why prefaulting ended early; empty while it runs and when it is done.")
      .def("view", &view<Arena>, "offset"_a, "bytes"_a,
           "A writable view of a range; keeps it mapped.")
      .def("close", &Arena::close, release_gil(),
           "Stop prefaulting, close the descriptor, unmap once no view is left. Idempotent.");

  py::class_<ArenaMapping>(m, "ArenaMapping", "A received arena, mapped in an engine's process.")
      .def(py::init<int, std::uint64_t>(), py::kw_only(), "fd"_a, "bytes"_a, release_gil(),
           "Map it; `fd` stays the caller's. Raises ArenaRefused: another size, or not sealed.")
      .def_property_readonly("bytes", &ArenaMapping::bytes, "Size, in bytes.")
      .def_property_readonly("address", &address<ArenaMapping>, "Where it is mapped here.")
      .def("start_prefault", &ArenaMapping::start_prefault, py::kw_only(), "threads"_a = 1,
           "Enter it into the page table in the background. 1 to 64 threads, once.")
      .def("view", &view<ArenaMapping>, "offset"_a, "bytes"_a,
           "A writable view of a range; keeps it mapped.")
      .def("close", &ArenaMapping::close, release_gil(),
           "Stop prefaulting, unmap once no view is left. Idempotent.");
}
