// Bitmaps and the hit rule as Python sees them.
#include "core/bitmap.hpp"

#include <pybind11/operators.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "bind/buffers.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using penstock::Bitmap;
using penstock::GroupPresence;
using penstock::HitRule;
using penstock::bind::HeldBuffer;

namespace {

Bitmap unpacked(const py::buffer& packed, std::size_t size) {
  return Bitmap::from_bytes(HeldBuffer::reading(packed, "packed").bytes(), size);
}

py::bytes packed(const Bitmap& bitmap) {
  const auto bytes = bitmap.to_bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::size_t hit_of(const std::vector<GroupPresence>& groups) {
  return penstock::longest_hit(groups);
}

}  // namespace

void bind_bitmap(py::module_& m) {
  py::register_exception<penstock::BitmapMismatch>(m, "BitmapMismatch", PyExc_ValueError);

  py::class_<Bitmap>(m, "Bitmap", "A fixed number of bits, one per chunk of a prompt.")
      .def(py::init<std::size_t>(), "size"_a)
      .def_static("from_bytes", &unpacked, "packed"_a, py::kw_only(), "size"_a,
                  "Bits packed eight to a byte, lowest first. Raises BitmapMismatch.")
      .def("to_bytes", &packed)
      .def("__len__", &Bitmap::size)
      .def("__getitem__", &Bitmap::test, "index"_a)
      .def("set", &Bitmap::set, "index"_a)
      .def("reset", &Bitmap::reset, "index"_a)
      .def("count", &Bitmap::count, "How many bits are one.")
      .def("prefix", &Bitmap::prefix, "How many ones there are before the first zero.")
      .def(py::self & py::self)
      .def(py::self | py::self)
      .def(py::self == py::self);

  py::class_<GroupPresence>(m, "GroupPresence", "One layer group's objects along a prompt.")
      .def(py::init<const Bitmap*, HitRule, std::size_t>(), py::kw_only(),
           py::arg("present").none(false), "rule"_a, "window_chunks"_a = 0, py::keep_alive<1, 2>());
  m.def("longest_hit", &hit_of, "groups"_a,
        "The largest n at which every group's rule holds. Raises BitmapMismatch.");
}
