// What the operators' library offers to its Python module beside the families' own functions. No torch header here.
#pragma once

#include <cstdint>
#include <string>

#include "core/pyramid.h"

namespace anchor_ext {

enum class Device : std::int32_t { cpu, cuda };

// Memory of a device: torch's CPU, or CUDA device `index` (-1: the current one). The work is done on torch's CPU
// threads, or by one launch on torch's current stream of the device.
struct Place {
  Device device;
  std::int32_t index;
};

// A tensor's, in memory that outlives the call.
struct Sizes {
  const std::int64_t* begin;
  std::size_t count;
};

// A tensor of the CPU with numbers yet to be written: the Python object, a new reference, and its memory.
struct NewTensor {
  void* object;
  void* memory;
};

// Null where torch, before 2.14, does not hand its tensors to Python by its stable interface, or has no memory. The
// caller holds the GIL.
ANCHOR_EXT_API NewTensor new_tensor(Sizes sizes, Dtype dtype);

struct BuildInfo {
  std::string torch;         // version that the library was compiled against
  std::string torch_target;  // oldest version of the stable ABI that it runs with
  std::string compiler;
  std::string cuda;        // toolkit's version, empty without CUDA
  std::string cuda_archs;  // as compiled, e.g. "sm_75 sm_80 compute_121", empty without CUDA
  bool nvtx;
};
ANCHOR_EXT_API BuildInfo build_info();

}  // namespace anchor_ext
