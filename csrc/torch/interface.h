// What the operators' library offers to its Python module beside the families' own functions. No torch header here.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/pyramid.h"

namespace anchor_ext {

enum class Device : std::int32_t { cpu, cuda };

// Memory of a device: torch's CPU, or CUDA device `index` (-1: the current one). The work is done on torch's CPU
// threads, or by one launch on torch's current stream of the device.
struct Place {
  Device device;
  std::int32_t index;
};

// A tensor of the CPU with numbers yet to be written: the Python object, a new reference, and its memory.
struct NewTensor {
  void* object;
  void* memory;
};

// Null where torch, before 2.14, does not hand its tensors to Python by its stable interface, or has no memory. The
// caller holds the GIL.
ANCHOR_EXT_API NewTensor new_tensor(const std::vector<std::int64_t>& sizes, Dtype dtype);

// How it was compiled, name by name: against which torch, which one is the oldest that it runs with, the compiler; the
// CUDA toolkit's version and the architectures, empty without CUDA; whether there is NVTX.
ANCHOR_EXT_API std::map<std::string, std::string> build_info();

}  // namespace anchor_ext
