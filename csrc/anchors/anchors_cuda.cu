#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "anchors/anchors.h"

namespace anchor_ext {
namespace {

constexpr int kThreads = 256;  // a block; full occupancy on every arch, and no shared memory to share
constexpr std::int64_t kMaxBlocks = (std::int64_t{1} << 31) - 1;  // of a grid's first dimension

// Of a large output a thread writes up to kMaxRows anchors, as long as there are kMinThreads of them: twice as many as
// the largest devices hold at once.
constexpr std::int64_t kMaxRows = 8;
#if !defined(ANCHOR_EXT_MIN_THREADS)  // tests have fewer, and groups of rows in small outputs
#define ANCHOR_EXT_MIN_THREADS (1 << 19)
#endif
constexpr std::int64_t kMinThreads = ANCHOR_EXT_MIN_THREADS;

__device__ inline std::int64_t thread_index() { return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

// The beginning of a pyramid that has no more cell anchors than this: a launch copies its parameters, and most pyramids
// are a sixth of the largest one.
struct alignas(Pyramid) SmallPyramid {
  static constexpr int kNumbers = 64 * 4;
  unsigned char bytes[offsetof(Pyramid, cell_anchors) + kNumbers * sizeof(double)];
};
__device__ inline const Pyramid& whole(const Pyramid& pyramid) { return pyramid; }
__device__ inline const Pyramid& whole(const SmallPyramid& pyramid) {
  return reinterpret_cast<const Pyramid&>(pyramid);
}

// Four components in the output type, stored in one piece: 16 bytes for float32.
template <typename T>
struct alignas(sizeof(T) < 4 ? 8 : 16) Stored {
  T components[4];
};

template <typename T>
__device__ inline void store(T* out, std::int64_t i, const Stored<T>& anchor) {
  if (reinterpret_cast<std::uintptr_t>(out) % alignof(Stored<T>) == 0) {
    reinterpret_cast<Stored<T>*>(out)[i] = anchor;
  } else {  // a view at an odd offset
#pragma unroll
    for (int k = 0; k < 4; ++k) out[4 * i + k] = anchor.components[k];
  }
}

template <typename T>
__device__ inline Stored<T> stored(const Anchor& anchor) {
  Stored<T> result;
#pragma unroll
  for (int k = 0; k < 4; ++k) result.components[k] = round_to<T>(anchor.components[k]);
  return result;
}

// Of every level, what the pyramid of groups of rows has not: its own first anchor and its rows.
struct Rows {
  std::int64_t of_group;
  struct {
    std::int64_t begin, rows;
  } levels[kMaxLevels];
};

// Every anchor of the common case. A thread writes the anchors of one cell anchor in one column and a group of rows: it
// is located once, and its x coordinates are computed once. Neighbouring threads write neighbouring anchors of each
// row. A pure map, so the order of the threads does not matter.
template <typename T, typename Parameters>
__global__ void __launch_bounds__(kThreads)
    plain_kernel(const __grid_constant__ Parameters parameters, const __grid_constant__ Rows rows, std::int64_t count,
                 T* out) {
  const std::int64_t i = thread_index();
  if (i >= count) return;
  const Pyramid& groups = whole(parameters);  // with a group of rows where others have a row
  const Position at = locate(groups, i);
  const Level& level = groups.levels[at.level];
  const double* const cell_anchor = cell_anchor_at(groups, level, at.cell_anchor);
  const double numbers[] = {cell_anchor[0], cell_anchor[1], cell_anchor[2], cell_anchor[3]};
  const double x = centre<true>(groups.arithmetic, level.x, at.column);
  Stored<T> anchor;
  anchor.components[0] = round_to<T>(component<true>(groups, numbers[0], 0, x, 0));
  anchor.components[2] = round_to<T>(component<true>(groups, numbers[2], 2, x, 0));
  std::int64_t row = at.row * rows.of_group;
  const std::int64_t of_level = rows.levels[at.level].rows;
  const std::int64_t behind = row + rows.of_group < of_level ? row + rows.of_group : of_level;
  const std::int64_t apart = level.x.cells * level.num_cell_anchors;
  std::int64_t flat = rows.levels[at.level].begin + row * apart + at.column * level.num_cell_anchors + at.cell_anchor;
#pragma unroll 1  // large outputs have threads enough to hide what one waits for
  for (; row < behind; ++row, flat += apart) {
    const double y = centre<true>(groups.arithmetic, level.y, row);
    anchor.components[1] = round_to<T>(component<true>(groups, numbers[1], 1, 0, y));
    anchor.components[3] = round_to<T>(component<true>(groups, numbers[3], 3, 0, y));
    store(out, flat, anchor);
  }
}

// Thread i writes anchor i of any pyramid, or the one at index_at(indices, i).
template <typename T, typename Parameters>
__global__ void __launch_bounds__(kThreads)
    any_kernel(const __grid_constant__ Parameters parameters, Indices indices, std::int64_t count, T* out) {
  const std::int64_t i = thread_index();
  if (i >= count) return;
  const Pyramid& pyramid = whole(parameters);
  const Anchor anchor =
      anchor_at<false>(pyramid, indices.memory == nullptr ? i : wrapped(pyramid, index_at(indices, i)));
  const int components = pyramid.layout.components;
  if (components == 4) {
    store(out, i, stored<T>(anchor));
  } else {
#pragma unroll
    for (int k = 0; k < kMaxComponents; ++k)
      if (k < components) out[components * i + k] = round_to<T>(anchor.components[k]);
  }
}

// Thread i writes anchor i of all images'.
template <typename T, typename Parameters>
__global__ void __launch_bounds__(kThreads)
    many_kernel(const __grid_constant__ Parameters parameters, const __grid_constant__ Batch batch, T* out) {
  const std::int64_t i = thread_index();
  if (i >= batch.num_anchors) return;
  const Pyramid& pyramid = whole(parameters);
  store(out, i, stored<T>(anchor_at<true>(pyramid, locate(pyramid, batch, i))));
}

__global__ void __launch_bounds__(kThreads)
    flags_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Question question, bool* out) {
  const std::int64_t i = thread_index();
  if (i < pyramid.num_anchors) out[i] = flag_at(pyramid, question, i);
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("anchor_ext: ") + what + " failed: " + cudaGetErrorString(error));
}

// A thread per item.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t count, int device, void* stream, const char* what,
            const Arguments&... arguments) {
  if (count == 0) return;
  const std::int64_t blocks = (count + kThreads - 1) / kThreads;
  if (blocks > kMaxBlocks)  // half a TB of flags, more of anything else: memory ends before
    throw std::runtime_error("anchor_ext: more anchors than one launch can index");
  // The CUDA runtime is linked statically: this copy of it has not seen which device torch made current.
  check(cudaSetDevice(device), "choosing the device");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, arguments...), what);
}

// Calls `function` with the pyramid, as small as it can be, and with `out` as a pointer to the type.
template <typename Function>
void with_parameters(const Pyramid& pyramid, Dtype dtype, void* out, const Function& function) {
  const auto typed = [&](const auto& parameters) {
    switch (dtype) {
      case Dtype::float32:
        return function(parameters, static_cast<float*>(out));
      case Dtype::float64:
        return function(parameters, static_cast<double*>(out));
      case Dtype::float16:
        return function(parameters, static_cast<Float16*>(out));
      case Dtype::bfloat16:
        return function(parameters, static_cast<BFloat16*>(out));
    }
  };
  const Level& last = pyramid.levels[pyramid.num_levels - 1];
  if ((last.first_cell_anchor + last.num_cell_anchors) * pyramid.layout.components > SmallPyramid::kNumbers)
    return typed(pyramid);
  SmallPyramid small;
  std::memcpy(small.bytes, &pyramid, sizeof small.bytes);
  typed(small);
}

// The pyramid with groups of rows in place of rows.
Pyramid grouped(const Pyramid& pyramid, Rows& rows) {
  Pyramid groups = pyramid;
  groups.num_anchors = 0;
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l) {
    Level& level = groups.levels[l];
    rows.levels[l] = {level.begin, level.y.cells};
    level.begin = groups.num_anchors;
    level.y.cells = (level.y.cells + rows.of_group - 1) / rows.of_group;
    groups.num_anchors += level.y.cells * level.x.cells * level.num_cell_anchors;
  }
  return groups;
}

}  // namespace

void generate_cuda(const Pyramid& pyramid, Dtype dtype, void* out, int device, void* stream) {
  if (!pyramid.plain) return gather_cuda(pyramid, Indices{}, pyramid.num_anchors, dtype, out, device, stream);
  Rows rows{};
  rows.of_group = std::min(std::max<std::int64_t>(pyramid.num_anchors / kMinThreads, 1), kMaxRows);
  const Pyramid groups = grouped(pyramid, rows);
  with_parameters(groups, dtype, out, [&](const auto& parameters, auto* typed) {
    launch(plain_kernel<std::remove_pointer_t<decltype(typed)>, std::decay_t<decltype(parameters)>>, groups.num_anchors,
           device, stream, "the launch of generate", parameters, rows, groups.num_anchors, typed);
  });
}

void gather_cuda(const Pyramid& pyramid, const Indices& indices, std::int64_t count, Dtype dtype, void* out, int device,
                 void* stream) {
  with_parameters(pyramid, dtype, out, [&](const auto& parameters, auto* typed) {
    launch(any_kernel<std::remove_pointer_t<decltype(typed)>, std::decay_t<decltype(parameters)>>, count, device,
           stream, "the launch of generate", parameters, indices, count, typed);
  });
}

void generate_many_cuda(const Pyramid& pyramid, const Batch& batch, Dtype dtype, void* out, int device, void* stream) {
  with_parameters(pyramid, dtype, out, [&](const auto& parameters, auto* typed) {
    launch(many_kernel<std::remove_pointer_t<decltype(typed)>, std::decay_t<decltype(parameters)>>, batch.num_anchors,
           device, stream, "the launch of generate_many", parameters, batch, typed);
  });
}

void flags_cuda(const Pyramid& pyramid, const Question& question, bool* out, int device, void* stream) {
  launch(flags_kernel, pyramid.num_anchors, device, stream, "the launch of flags", pyramid, question, out);
}

}  // namespace anchor_ext
