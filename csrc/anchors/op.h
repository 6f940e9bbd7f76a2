// What the operators' library offers to its Python module beside the operators: the same work on raw memory.
// No torch header here; a device is torch's type and index.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "anchors/anchors.h"
#include "core/config.h"

namespace anchor_ext {

enum class Device : std::int32_t { cpu, cuda };

// Memory of a device: torch's CPU, or CUDA device `index` (-1: the current one). The work is done on torch's CPU
// threads, or by one launch on torch's current stream of the device.
struct Place {
  Device device;
  std::int32_t index;
};

// Every anchor into `out` [num_anchors, components].
ANCHOR_EXT_API void generate(const Pyramid& pyramid, Dtype dtype, void* out, Place place);

// Of a configuration with pyramid levels, every anchor of every image, one image after another, into `out`: on CUDA by
// a launch per kMaxImages of them.
ANCHOR_EXT_API void generate_many(const Config& config, const std::vector<ImageShape>& image_shapes, Dtype dtype,
                                  void* out, Place place);

// The anchors at `indices` [count], each modulo num_anchors, into `out` [count, components].
ANCHOR_EXT_API void gather(const Pyramid& pyramid, const Indices& indices, std::int64_t count, Dtype dtype, void* out,
                           Place place);

// A flag per anchor into `out` [num_anchors].
ANCHOR_EXT_API void flags(const Pyramid& pyramid, const Question& question, bool* out, Place place);

// A tensor's, in memory that outlives the call.
struct Sizes {
  Sizes(const std::vector<std::int64_t>& sizes) : begin(sizes.data()), count(sizes.size()) {}
  Sizes(const std::int64_t* begin, const std::int64_t* end)
      : begin(begin), count(static_cast<std::size_t>(end - begin)) {}
  const std::int64_t* begin;
  std::size_t count;
};

// A tensor of the CPU with numbers yet to be written: the Python object, a new reference, and its memory.
struct NewTensor {
  void* object;
  void* memory;
};

// Without a dtype: of flags. Torch hands its tensors to Python by its stable interface from 2.14 on; for one before
// that `to_python` does it, of a handle. Null where there is neither, or no memory. The caller holds the GIL.
using ToPython = void* (*)(const void* tensor);
ANCHOR_EXT_API NewTensor new_tensor(Sizes sizes, std::optional<Dtype> dtype, ToPython to_python);

// How many bytes a Python tensor's storage has, and at which of its numbers the tensor begins; from torch 2.14 on. The
// caller holds the GIL.
struct Extent {
  std::int64_t bytes, offset;
};
ANCHOR_EXT_API std::optional<Extent> storage_extent(void* object);

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
