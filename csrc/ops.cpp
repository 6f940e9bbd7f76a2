// Torch meets the core, through libtorch's stable ABI: schema, device switch, allocation, threads, stream.
#include "ops.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/version.h>

#include <stdexcept>
#include <vector>

#include "config.h"
#include "nvtx.h"

// Lives in libtorch_cuda, which a CPU build of torch lacks: weak, so that one binary loads with both.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** ret_stream);

namespace anchor_ext {
namespace {

namespace stable = torch::stable;
using torch::headeronly::DeviceType;
using torch::headeronly::ScalarType;

// torch::fill splits at the same number of bytes (32,768 elements of float32).
constexpr std::int64_t kGrain = 8192;

void generate_on_cpu(const Pyramid& pyramid, Dtype dtype, void* out) {
  if (pyramid.num_anchors <= kGrain) return generate_cpu(pyramid, dtype, out, 0, pyramid.num_anchors);
  struct Work {
    const Pyramid& pyramid;
    Dtype dtype;
    void* out;
  } work{pyramid, dtype, out};
  // libtorch's own thread pool: it heeds torch.set_num_threads, and no second OpenMP runtime competes with it.
  const auto share = [](std::int64_t begin, std::int64_t end, void* context) {
    const Work& w = *static_cast<const Work*>(context);
    generate_cpu(w.pyramid, w.dtype, w.out, begin, end);
  };
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, pyramid.num_anchors, kGrain, share, &work));
}

void generate_on_cuda(const Pyramid& pyramid, Dtype dtype, void* out, std::int32_t device_index) {
#if defined(ANCHOR_EXT_WITH_CUDA)
  if (aoti_torch_get_current_cuda_stream == nullptr)
    throw std::runtime_error("anchor_ext: device is cuda, but this torch is a build without CUDA");
  if (device_index < 0) device_index = stable::accelerator::getCurrentDeviceIndex();
  const stable::accelerator::DeviceGuard guard(device_index);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_index, &stream));
  generate_cuda(pyramid, dtype, out, device_index, stream);
#else
  (void)pyramid, (void)dtype, (void)out, (void)device_index;
  throw std::runtime_error("anchor_ext: device is cuda, but anchor_ext was built without CUDA");
#endif
}

Dtype dtype_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return Dtype::float32;
    case ScalarType::Double:
      return Dtype::float64;
    case ScalarType::Half:
      return Dtype::float16;
    case ScalarType::BFloat16:
      return Dtype::bfloat16;
    default:
      throw std::invalid_argument("dtype is no float32, float64, float16 or bfloat16");
  }
}

stable::Tensor empty(std::int64_t num_anchors, ScalarType dtype, stable::Device device) {
  const std::int64_t sizes[2] = {num_anchors, 4};
  const std::int64_t strides[2] = {4, 1};
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      2, sizes, strides, stable::detail::to<std::int32_t>(stable::detail::from(dtype)),
      stable::detail::to<std::int32_t>(stable::detail::from(device.type())), device.index(), &handle));
  return stable::Tensor(handle);
}

// The operator: see its schema below. Any device but CUDA and meta is served by the CPU and a copy, in Python.
stable::Tensor generate_op(std::vector<std::int64_t> level_shapes, std::vector<double> strides,
                           std::vector<double> cell_anchors, std::vector<std::int64_t> num_cell_anchors,
                           ScalarType dtype, stable::Device device) {
  const std::size_t levels = num_cell_anchors.size();
  if (level_shapes.size() != 2 * levels || strides.size() != 2 * levels)
    throw std::invalid_argument("level_shapes and strides: expected two numbers (y, x) per entry of num_cell_anchors");

  std::vector<LevelShape> shapes;
  std::vector<Stride> pairs;
  std::vector<std::vector<Box>> boxes(levels);
  std::size_t next = 0;
  for (std::size_t l = 0; l < levels; ++l) {
    shapes.push_back({level_shapes[2 * l], level_shapes[2 * l + 1]});
    pairs.push_back({strides[2 * l], strides[2 * l + 1]});
    for (std::int64_t a = 0; a < num_cell_anchors[l] && next + 4 <= cell_anchors.size(); ++a, next += 4)
      boxes[l].push_back({cell_anchors[next], cell_anchors[next + 1], cell_anchors[next + 2], cell_anchors[next + 3]});
    if (static_cast<std::int64_t>(boxes[l].size()) != num_cell_anchors[l])
      throw std::invalid_argument("cell_anchors: expected four numbers per cell anchor that num_cell_anchors counts");
  }
  if (next != cell_anchors.size())
    throw std::invalid_argument("cell_anchors: expected four numbers per cell anchor that num_cell_anchors counts");

  const Pyramid pyramid = Config(pairs, boxes).over_grids(shapes);
  const Dtype type = dtype_of(dtype);
  stable::Tensor out = empty(pyramid.num_anchors, dtype, device);
  if (device.type() == DeviceType::Meta) return out;
  if (device.type() != DeviceType::CPU && device.type() != DeviceType::CUDA)
    throw std::invalid_argument("device: expected cpu, cuda or meta");
  generate(pyramid, type, out.mutable_data_ptr(), device.type() == DeviceType::CUDA ? Device::cuda : Device::cpu,
           device.index());
  return out;
}

}  // namespace

void generate(const Pyramid& pyramid, Dtype dtype, void* out, Device device, std::int32_t device_index) {
  ANCHOR_EXT_RANGE("generate");
  if (device == Device::cuda) return generate_on_cuda(pyramid, dtype, out, device_index);
  generate_on_cpu(pyramid, dtype, out);
}

BuildInfo build_info() {
  BuildInfo info;
  info.torch = ANCHOR_EXT_TORCH_VERSION;
  info.torch_target =
      std::to_string(TORCH_TARGET_VERSION >> 56) + "." + std::to_string((TORCH_TARGET_VERSION >> 48) & 0xff);
  info.compiler = __VERSION__;
#if defined(ANCHOR_EXT_WITH_CUDA)
  info.cuda = ANCHOR_EXT_CUDA_VERSION;
  info.cuda_archs = ANCHOR_EXT_CUDA_ARCHS;
#endif
  info.nvtx = ANCHOR_EXT_NVTX;
  return info;
}

// Anchors of a feature pyramid, [N, 4] as x1, y1, x2, y2 in pixels: cell anchor + centre, in float64, rounded once.
// level_shapes: rows, columns of each level's grid; strides: y, x of each level, pixels; cell_anchors: x1, y1, x2, y2
// of every cell anchor around the origin, level after level; num_cell_anchors: how many of them each level has.
STABLE_TORCH_LIBRARY(anchor_ext, m) {
  m.def(
      "generate(SymInt[] level_shapes, float[] strides, float[] cell_anchors, int[] num_cell_anchors, *, "
      "ScalarType dtype, Device device) -> Tensor");
}

// No argument is a tensor, so there is no backend to dispatch on: one kernel looks at `device` itself.
STABLE_TORCH_LIBRARY_IMPL(anchor_ext, CompositeExplicitAutograd, m) { m.impl("generate", TORCH_BOX(&generate_op)); }

}  // namespace anchor_ext
