// The native module: one line per subject. Tables only; the logic lives in csrc/core, csrc/copy and
// csrc/io.
#include <pybind11/pybind11.h>

namespace py = pybind11;

void bind_arena(py::module_& m);
void bind_bitmap(py::module_& m);
void bind_bytes(py::module_& m);
void bind_catalog(py::module_& m);
void bind_channel(py::module_& m);
void bind_copy(py::module_& m);
void bind_digest(py::module_& m);
void bind_directory(py::module_& m);
void bind_dlpack(py::module_& m);
void bind_io(py::module_& m);
void bind_objects(py::module_& m);
void bind_table(py::module_& m);

PYBIND11_MODULE(_native, m) {
  m.doc() = "Penstock's data plane.";
  bind_arena(m);
  bind_bitmap(m);
  bind_bytes(m);
  bind_channel(m);
  bind_copy(m);
  bind_digest(m);
  bind_dlpack(m);
  bind_io(m);
  bind_objects(m);
  bind_table(m);
  bind_directory(m);
  bind_catalog(m);
}
