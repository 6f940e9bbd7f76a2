// What the operators' library offers to its Python module beside the operators: the same work on raw memory.
// No torch header here; a device is torch's type and index.
#pragma once

#include <cstdint>
#include <string>

#include "generate.h"

namespace anchor_ext {

enum class Device : std::int32_t { cpu, cuda };

// Fills `out` [num_anchors, 4] in memory of the device: on torch's CPU threads, or by one launch on torch's current
// stream of CUDA device `device_index` (-1: the current device).
ANCHOR_EXT_API void generate(const Pyramid& pyramid, Dtype dtype, void* out, Device device, std::int32_t device_index);

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
