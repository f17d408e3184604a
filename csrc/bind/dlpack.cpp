// A DLPack capsule taken over: where its tensor is, for as long as this object lives.
#include "bind/dlpack.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "copy/layout.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
namespace dlpack = penstock::bind::dlpack;

namespace {

struct Deleter {
  void operator()(dlpack::Managed* managed) const {
    if (managed->deleter != nullptr) {
      managed->deleter(managed);
    }
  }
};

class DlpackTensor {
 public:
  explicit DlpackTensor(const py::capsule& capsule) {
    if (PyCapsule_IsValid(capsule.ptr(), dlpack::kName) == 0) {
      throw py::value_error("not a DLPack capsule, or one that was taken before");
    }
    managed_.reset(
        static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::kName)));
    // By the format's rule, the new name tells the capsule's own destructor to leave it alone.
    if (PyCapsule_SetName(capsule.ptr(), dlpack::kTakenName) != 0) {
      throw py::error_already_set();
    }
    if (element_bits() % 8 != 0) {  // rounded up, its last elements would lie outside of it
      throw penstock::LayoutRefused("elements of " + std::to_string(element_bits()) +
                                    " bits: only whole bytes are copied; view the tensor as uint8");
    }
  }

  [[nodiscard]] std::uint64_t address() const {
    return reinterpret_cast<std::uint64_t>(tensor().data) + tensor().byte_offset;
  }
  [[nodiscard]] bool is_cpu() const {
    const std::int32_t type = tensor().device.type;
    return type == dlpack::kCpu || type == dlpack::kCudaHost;
  }
  [[nodiscard]] std::uint64_t element_bytes() const { return element_bits() / 8; }
  [[nodiscard]] std::vector<std::int64_t> shape() const {
    return {tensor().shape, tensor().shape + tensor().dimensions};
  }
  [[nodiscard]] std::optional<std::vector<std::int64_t>> strides() const {
    if (tensor().strides == nullptr) {
      return std::nullopt;
    }
    return std::vector<std::int64_t>{tensor().strides, tensor().strides + tensor().dimensions};
  }

 private:
  [[nodiscard]] std::uint64_t element_bits() const {
    return std::uint64_t{tensor().type.bits} * tensor().type.lanes;
  }
  [[nodiscard]] const dlpack::Tensor& tensor() const { return managed_->tensor; }

  std::unique_ptr<dlpack::Managed, Deleter> managed_;
};

}  // namespace

void bind_dlpack(py::module_& m) {
  py::class_<DlpackTensor>(m, "DlpackTensor", "A tensor taken over from a DLPack capsule.")
      .def(py::init<const py::capsule&>(), "capsule"_a)
      .def_property_readonly("address", &DlpackTensor::address)
      .def_property_readonly("is_cpu", &DlpackTensor::is_cpu)
      .def_property_readonly("element_bytes", &DlpackTensor::element_bytes)
      .def_property_readonly("shape", &DlpackTensor::shape)
      .def_property_readonly("strides", &DlpackTensor::strides);
}
