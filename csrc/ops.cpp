// Torch meets the core, through libtorch's stable ABI: schema, device switch, allocation, threads, stream.
#include "ops.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/version.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "config.h"
#include "nvtx.h"

// Lives in libtorch_cuda, which a CPU build of torch lacks: weak, so that one binary loads with both.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** ret_stream);
// Since torch 2.14: the Python object of a tensor.
extern "C" __attribute__((weak)) AOTITorchError torch_tensor_to_pyobject(AtenTensorHandle tensor, void* type,
                                                                         void** object);

namespace anchor_ext {

// An operator's `str`: torch 2.11's own conversion to std::string loses the memory of every string that it reads.
struct Text {
  std::string value;
};

}  // namespace anchor_ext

template <>
struct torch::stable::detail::ToImpl<anchor_ext::Text> {
  static anchor_ext::Text call(StableIValue value, uint64_t, bool) {
    const auto handle = to<StringHandle>(value);
    std::size_t length = 0;
    const char* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    anchor_ext::Text text{std::string(data, length)};
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }
};

namespace anchor_ext {
namespace {

namespace stable = torch::stable;
using torch::headeronly::DeviceType;
using torch::headeronly::ScalarType;

// Where two threads begin to be faster than one: bytes of anchors; flags; anchors at indices.
constexpr std::int64_t kGrainBytes = 262144;
constexpr std::int64_t kFlagsGrain = 32768;
constexpr std::int64_t kGatherGrain = 4096;

// `share(begin, end)` for all of 0 .. count-1, in libtorch's own thread pool: it heeds torch.set_num_threads, and no
// second OpenMP runtime competes with it.
template <typename Share>
void on_cpu(std::int64_t count, std::int64_t grain, const Share& share) {
  if (count <= grain) return share(0, count);
  const auto call = [](std::int64_t begin, std::int64_t end, void* context) {
    (*static_cast<const Share*>(context))(begin, end);
  };
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, count, grain, call, const_cast<Share*>(&share)));
}

// `launch(device, stream)` with the device current and its current stream.
template <typename Launch>
void on_cuda(std::int32_t device_index, const Launch& launch) {
#if defined(ANCHOR_EXT_WITH_CUDA)
  if (aoti_torch_get_current_cuda_stream == nullptr)
    throw std::runtime_error("anchor_ext: device is cuda, but this torch is a build without CUDA");
  if (device_index < 0) device_index = stable::accelerator::getCurrentDeviceIndex();
  const stable::accelerator::DeviceGuard guard(device_index);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_index, &stream));
  launch(device_index, stream);
#else
  (void)device_index, (void)launch;
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

ScalarType scalar_type_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
      return ScalarType::Float;
    case Dtype::float64:
      return ScalarType::Double;
    case Dtype::float16:
      return ScalarType::Half;
    case Dtype::bfloat16:
      return ScalarType::BFloat16;
  }
  throw std::invalid_argument("dtype is no float32, float64, float16 or bfloat16");
}

// A share of anchors of so many numbers.
std::int64_t grain(int numbers, Dtype dtype) {
  return kGrainBytes / (numbers * (dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2));
}

stable::Tensor empty(const std::vector<std::int64_t>& sizes, ScalarType dtype, stable::Device device) {
  std::vector<std::int64_t> strides(sizes.size(), 1);
  for (std::size_t i = sizes.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * sizes[i];
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<std::int64_t>(sizes.size()), sizes.data(), strides.data(),
                                                  stable::detail::to<std::int32_t>(stable::detail::from(dtype)),
                                                  stable::detail::to<std::int32_t>(stable::detail::from(device.type())),
                                                  device.index(), &handle));
  return stable::Tensor(handle);
}

// Any device but CUDA and meta is served by the CPU and a copy, in Python.
Place place_of(stable::Device device) {
  if (device.type() == DeviceType::CUDA) return {Device::cuda, device.index()};
  if (device.type() == DeviceType::CPU) return {Device::cpu, -1};
  throw std::invalid_argument("device: expected cpu, cuda or meta");
}

std::vector<Pair> pairs_of(const char* name, const std::vector<double>& numbers) {
  if (numbers.size() % 2 != 0)
    throw std::invalid_argument(std::string(name) + ": expected two numbers (y, x) per level");
  std::vector<Pair> pairs;
  for (std::size_t i = 0; i < numbers.size(); i += 2) pairs.push_back({numbers[i], numbers[i + 1]});
  return pairs;
}

// The arguments that the operators share: see the schemas below.
Config config_of(const std::vector<double>& strides, const std::vector<double>& cell_anchors,
                 const std::vector<std::int64_t>& num_cell_anchors, const std::vector<double>& offsets,
                 const std::vector<double>& starts, const Text& arithmetic, const Text& layout) {
  ConfigArguments arguments;
  arguments.strides = pairs_of("strides", strides);
  arguments.offsets = pairs_of("offsets", offsets);
  arguments.starts = pairs_of("starts", starts);
  arguments.arithmetic = arithmetic.value;
  arguments.layout = layout.value;
  const std::int64_t components = layout_of(layout.value).components;
  auto rest = static_cast<std::int64_t>(cell_anchors.size());
  const double* next = cell_anchors.data();
  for (const std::int64_t count : num_cell_anchors) {
    if (count < 1 || count > rest / components)
      throw std::invalid_argument("cell_anchors: expected " + std::to_string(components) +
                                  " numbers per cell anchor that num_cell_anchors counts");
    arguments.cell_anchors.emplace_back(next, next + count * components);
    next += count * components;
    rest -= count * components;
  }
  if (rest != 0)
    throw std::invalid_argument("cell_anchors: expected " + std::to_string(components) +
                                " numbers per cell anchor that num_cell_anchors counts");
  return Config(std::move(arguments));
}

std::optional<ImageShape> image_shape_of(const char* name, const std::vector<std::int64_t>& shape) {
  if (shape.empty()) return std::nullopt;
  if (shape.size() != 2) throw std::invalid_argument(std::string(name) + ": expected two numbers, height and width");
  return ImageShape{shape[0], shape[1]};
}

Request request_of(const std::vector<std::int64_t>& level_shapes, const std::vector<std::int64_t>& image_shape,
                   const std::vector<std::int64_t>& clip) {
  if (level_shapes.size() % 2 != 0)
    throw std::invalid_argument("level_shapes: expected two numbers, rows and columns, per level");
  Request request;
  for (std::size_t i = 0; i < level_shapes.size(); i += 2)
    request.level_shapes.push_back({level_shapes[i], level_shapes[i + 1]});
  request.image_shape = image_shape_of("image_shape", image_shape);
  request.clip = image_shape_of("clip", clip);
  return request;
}

stable::Tensor generate_op(std::vector<std::int64_t> level_shapes, std::vector<double> strides,
                           std::vector<double> cell_anchors, std::vector<std::int64_t> num_cell_anchors,
                           ScalarType dtype, stable::Device device, std::vector<double> offsets,
                           std::vector<double> starts, Text arithmetic, Text layout,
                           std::vector<std::int64_t> image_shape, std::vector<std::int64_t> clip) {
  const Config config = config_of(strides, cell_anchors, num_cell_anchors, offsets, starts, arithmetic, layout);
  const Pyramid pyramid = config.over(request_of(level_shapes, image_shape, clip));
  const Dtype type = dtype_of(dtype);
  stable::Tensor out = empty({pyramid.num_anchors, config.num_components()}, dtype, device);
  if (device.type() != DeviceType::Meta) generate(pyramid, type, out.mutable_data_ptr(), place_of(device));
  return out;
}

stable::Tensor gather_op(stable::Tensor index, std::vector<std::int64_t> level_shapes, std::vector<double> strides,
                         std::vector<double> cell_anchors, std::vector<std::int64_t> num_cell_anchors, ScalarType dtype,
                         std::vector<double> offsets, std::vector<double> starts, Text arithmetic, Text layout,
                         std::vector<std::int64_t> image_shape, std::vector<std::int64_t> clip) {
  const ScalarType index_type = index.scalar_type();
  if ((index_type != ScalarType::Long && index_type != ScalarType::Int) || !index.is_contiguous())
    throw std::invalid_argument("index: expected a contiguous tensor of int64 or int32");
  const Config config = config_of(strides, cell_anchors, num_cell_anchors, offsets, starts, arithmetic, layout);
  const Pyramid pyramid = config.over(request_of(level_shapes, image_shape, clip));
  const Dtype type = dtype_of(dtype);
  std::vector<std::int64_t> sizes(index.sizes().begin(), index.sizes().end());
  sizes.push_back(config.num_components());
  const stable::Device device = index.device();
  stable::Tensor out = empty(sizes, dtype, device);
  if (device.type() == DeviceType::Meta || index.numel() == 0) return out;
  if (index.const_data_ptr() == nullptr) throw std::invalid_argument("index: expected a tensor with memory");
  gather(pyramid, {index.const_data_ptr(), index_type == ScalarType::Long ? 8 : 4}, index.numel(), type,
         out.mutable_data_ptr(), place_of(device));
  return out;
}

stable::Tensor inside_op(std::vector<std::int64_t> level_shapes, std::vector<double> strides,
                         std::vector<double> cell_anchors, std::vector<std::int64_t> num_cell_anchors,
                         std::vector<std::int64_t> image_shape, double border, ScalarType dtype, stable::Device device,
                         std::vector<double> offsets, std::vector<double> starts, Text arithmetic, Text layout) {
  const Config config = config_of(strides, cell_anchors, num_cell_anchors, offsets, starts, arithmetic, layout);
  const Pyramid pyramid = config.over(request_of(level_shapes, image_shape, {}));
  const std::optional<ImageShape> image = image_shape_of("image_shape", image_shape);
  if (!image) throw std::invalid_argument("image_shape: expected two numbers, height and width");
  const Question question = config.inside(pyramid, *image, border, dtype_of(dtype));
  stable::Tensor out = empty({pyramid.num_anchors}, ScalarType::Bool, device);
  if (device.type() != DeviceType::Meta)
    flags(pyramid, question, static_cast<bool*>(out.mutable_data_ptr()), place_of(device));
  return out;
}

stable::Tensor valid_flags_op(std::vector<std::int64_t> level_shapes, std::vector<double> strides,
                              std::vector<std::int64_t> num_cell_anchors, std::vector<std::int64_t> padded_shape,
                              stable::Device device, Text arithmetic, std::vector<std::int64_t> image_shape) {
  // Whether a cell is valid does not depend on its cell anchors' numbers: points will do.
  std::vector<double> points;
  for (const std::int64_t count : num_cell_anchors)
    if (count > 0 && count <= kMaxCellAnchors) points.resize(points.size() + 2 * static_cast<std::size_t>(count));
  const Config config = config_of(strides, points, num_cell_anchors, {}, {}, arithmetic, {"point"});
  const Request request = request_of(level_shapes, image_shape, {});
  const Pyramid pyramid = config.over(request);
  const std::optional<ImageShape> padded = image_shape_of("padded_shape", padded_shape);
  if (!padded) throw std::invalid_argument("padded_shape: expected two numbers, height and width");
  const Question question = config.valid(pyramid, request, *padded);
  stable::Tensor out = empty({pyramid.num_anchors}, ScalarType::Bool, device);
  if (device.type() != DeviceType::Meta)
    flags(pyramid, question, static_cast<bool*>(out.mutable_data_ptr()), place_of(device));
  return out;
}

}  // namespace

void generate(const Pyramid& pyramid, Dtype dtype, void* out, Place place) {
  ANCHOR_EXT_RANGE("generate");
  if (place.device == Device::cuda)
    return on_cuda(place.index, [&](int device, void* stream) { generate_cuda(pyramid, dtype, out, device, stream); });
  on_cpu(pyramid.num_anchors, grain(pyramid.layout.components, dtype),
         [&](std::int64_t begin, std::int64_t end) { generate_cpu(pyramid, dtype, out, begin, end); });
}

void generate_points(const Pyramid& pyramid, Dtype dtype, void* points, void* strides) {
  ANCHOR_EXT_RANGE("generate");
  on_cpu(pyramid.num_anchors, grain(3, dtype),
         [&](std::int64_t begin, std::int64_t end) { points_cpu(pyramid, dtype, points, strides, begin, end); });
}

void gather(const Pyramid& pyramid, const Indices& indices, std::int64_t count, Dtype dtype, void* out, Place place) {
  ANCHOR_EXT_RANGE("gather");
  if (place.device == Device::cuda)
    return on_cuda(place.index,
                   [&](int device, void* stream) { gather_cuda(pyramid, indices, count, dtype, out, device, stream); });
  on_cpu(count, kGatherGrain,
         [&](std::int64_t begin, std::int64_t end) { gather_cpu(pyramid, indices, dtype, out, begin, end); });
}

void flags(const Pyramid& pyramid, const Question& question, bool* out, Place place) {
  ANCHOR_EXT_RANGE("flags");
  if (place.device == Device::cuda)
    return on_cuda(place.index, [&](int device, void* stream) { flags_cuda(pyramid, question, out, device, stream); });
  on_cpu(pyramid.num_anchors, kFlagsGrain,
         [&](std::int64_t begin, std::int64_t end) { flags_cpu(pyramid, question, out, begin, end); });
}

NewTensor new_tensor(const std::vector<std::int64_t>& sizes, std::optional<Dtype> dtype) {
  if (torch_tensor_to_pyobject == nullptr) return {};
  try {
    const stable::Tensor tensor = empty(sizes, dtype ? scalar_type_of(*dtype) : ScalarType::Bool, {DeviceType::CPU});
    void* object = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_tensor_to_pyobject(tensor.get(), nullptr, &object));
    return {object, tensor.mutable_data_ptr()};
  } catch (const std::runtime_error&) {
    return {};  // torch.empty says what is wrong
  }
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

// The operators carry the whole configuration: nothing is registered, nothing hidden. In all of them, per level and
// level after level: level_shapes: rows, columns of the grid; strides: y, x in pixels, empty: image_shape //
// level_shapes; num_cell_anchors: how many cell anchors the level has; cell_anchors: their components, around the
// origin; offsets: y, x of the first centre in cells, empty: 0.5; starts: y, x in pixels, added to the centres, empty:
// 0. image_shape: height, width; clip: the same, to which anchors are clipped, empty: not. arithmetic and layout: see
// arithmetic_of() and layout_of() in config.h.
//
// generate: every anchor, [N, components]. gather: the anchors at `index` [...], modulo N, [..., components]. inside:
// for every anchor, rounded to dtype, whether it lies in the image, [N]. valid_flags: whether its cell lies on the
// padded image, [N].
STABLE_TORCH_LIBRARY(anchor_ext, m) {
  m.def(
      "generate(SymInt[] level_shapes, float[] strides, float[] cell_anchors, int[] num_cell_anchors, *, "
      "ScalarType dtype, Device device, float[] offsets=[], float[] starts=[], str arithmetic='float64', "
      "str layout='xyxy', SymInt[] image_shape=[], SymInt[] clip=[]) -> Tensor");
  m.def(
      "gather(Tensor index, SymInt[] level_shapes, float[] strides, float[] cell_anchors, int[] num_cell_anchors, *, "
      "ScalarType dtype, float[] offsets=[], float[] starts=[], str arithmetic='float64', str layout='xyxy', "
      "SymInt[] image_shape=[], SymInt[] clip=[]) -> Tensor");
  m.def(
      "inside(SymInt[] level_shapes, float[] strides, float[] cell_anchors, int[] num_cell_anchors, "
      "SymInt[] image_shape, float border=0., *, ScalarType dtype, Device device, float[] offsets=[], "
      "float[] starts=[], str arithmetic='float64', str layout='xyxy') -> Tensor");
  m.def(
      "valid_flags(SymInt[] level_shapes, float[] strides, int[] num_cell_anchors, SymInt[] padded_shape, *, "
      "Device device, str arithmetic='float64', SymInt[] image_shape=[]) -> Tensor");
}

// The kernels look at the device themselves: most operators have no tensor among their arguments to dispatch on.
STABLE_TORCH_LIBRARY_IMPL(anchor_ext, CompositeExplicitAutograd, m) {
  m.impl("generate", TORCH_BOX(&generate_op));
  m.impl("gather", TORCH_BOX(&gather_op));
  m.impl("inside", TORCH_BOX(&inside_op));
  m.impl("valid_flags", TORCH_BOX(&valid_flags_op));
}

}  // namespace anchor_ext
