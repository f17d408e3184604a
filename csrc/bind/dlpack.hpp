// The part of the DLPack exchange format that is read here, declared from its specification
// (https://dmlc.github.io/dlpack/latest/c_api.html): the unversioned capsule "dltensor".
#pragma once

#include <cstdint>

namespace penstock::bind::dlpack {

inline constexpr const char* kName = "dltensor";
inline constexpr const char* kTakenName = "used_dltensor";
inline constexpr std::int32_t kCpu = 1;
inline constexpr std::int32_t kCudaHost = 3;  // pinned, and the CPU's all the same

struct Device {
  std::int32_t type;
  std::int32_t id;
};

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t dimensions;
  DataType type;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: packed
  std::uint64_t byte_offset;
};

struct Managed {
  Tensor tensor;
  void* context;
  void (*deleter)(Managed*);
};

}  // namespace penstock::bind::dlpack
