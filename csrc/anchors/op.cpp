// Torch meets the core, through libtorch's stable ABI: schema, device switch, allocation, threads, stream.
#include "anchors/op.h"

#include <sys/mman.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/config.h"
#include "torch/nvtx.h"

// Lives in libtorch_cuda, which a CPU build of torch lacks: weak, so that one binary loads with both.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** ret_stream);
// Since torch 2.14: the Python object of a tensor, and the other way round.
extern "C" __attribute__((weak)) AOTITorchError torch_tensor_to_pyobject(AtenTensorHandle tensor, void* type,
                                                                         void** object);
extern "C" __attribute__((weak)) AOTITorchError torch_tensor_from_pyobject(void* object, AtenTensorHandle* tensor);

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

std::int64_t bytes_of(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

// A share of anchors of so many numbers.
std::int64_t grain(int numbers, Dtype dtype) { return kGrainBytes / (numbers * bytes_of(dtype)); }

// Memory of that size comes from the system, page by page as it is written, which takes ten times as long as the
// writing. Pages of 2 MB take less: 3 times faster at 8192x16384. (Systems where they are not to be had say so, and
// nothing is lost.)
constexpr std::uintptr_t kFreshBytes = std::uintptr_t{32} << 20, kHugePage = std::uintptr_t{2} << 20;
void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::uintptr_t bytes) {
#if defined(MADV_HUGEPAGE)
  if (bytes < kFreshBytes) return;
  const std::uintptr_t begin = (reinterpret_cast<std::uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(memory) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

stable::Tensor empty(Sizes sizes, ScalarType dtype, stable::Device device) {
  thread_local std::vector<std::int64_t> strides;  // a call at 64x64 takes but 30 times as long as an allocation
  strides.assign(sizes.count, 1);
  for (std::size_t i = sizes.count - 1; i > 0; --i)
    strides[i - 1] = strides[i] * std::max<std::int64_t>(sizes.begin[i], 1);
  AtenTensorHandle handle = nullptr;
  const AOTITorchError error = aoti_torch_empty_strided(
      static_cast<std::int64_t>(sizes.count), sizes.begin, strides.data(),
      stable::detail::to<std::int32_t>(stable::detail::from(dtype)),
      stable::detail::to<std::int32_t>(stable::detail::from(device.type())), device.index(), &handle);
  if (error != AOTI_TORCH_SUCCESS) {
    std::string shape;
    for (std::size_t i = 0; i < sizes.count; ++i) shape += (i == 0 ? "" : ", ") + std::to_string(sizes.begin[i]);
    throw std::runtime_error("anchor_ext: torch gives no memory for a tensor of shape (" + shape + ")");
  }
  stable::Tensor tensor(handle);
  if (device.type() == DeviceType::CPU && tensor.numel() >= static_cast<std::int64_t>(kFreshBytes / 8))
    prefer_huge_pages(tensor.mutable_data_ptr(), static_cast<std::uintptr_t>(tensor.numel()) * tensor.element_size());
  return tensor;
}

// Any device but CUDA and meta is served by the CPU and a copy, in Python.
Place place_of(stable::Device device) {
  if (device.type() == DeviceType::CUDA) return {Device::cuda, device.index()};
  if (device.type() == DeviceType::CPU) return {Device::cpu, -1};
  throw std::invalid_argument("device: expected cpu, cuda or meta");
}

stable::Tensor generate_op(std::vector<std::int64_t> level_shapes, Numbers strides, std::vector<double> cell_anchors,
                           std::vector<std::int64_t> num_cell_anchors, Text dtype, stable::Device device,
                           Numbers offsets, Numbers starts, Text arithmetic, Text layout, Sides image_shape,
                           Sides clip) {
  const Config config =
      config_of(strides, cell_anchors, num_cell_anchors, offsets, starts, arithmetic.value, layout.value);
  const Pyramid pyramid = config.over(request_of(level_shapes, image_shape, clip));
  const Dtype type = dtype_of(dtype.value);
  stable::Tensor out =
      empty(std::vector<std::int64_t>{pyramid.num_anchors, config.num_components()}, scalar_type_of(type), device);
  if (device.type() != DeviceType::Meta) generate(pyramid, type, out.mutable_data_ptr(), place_of(device));
  return out;
}

stable::Tensor gather_op(stable::Tensor index, std::vector<std::int64_t> level_shapes, Numbers strides,
                         std::vector<double> cell_anchors, std::vector<std::int64_t> num_cell_anchors, Text dtype,
                         Numbers offsets, Numbers starts, Text arithmetic, Text layout, Sides image_shape, Sides clip) {
  const ScalarType index_type = index.scalar_type();
  if (index_type != ScalarType::Long && index_type != ScalarType::Int)
    throw std::invalid_argument("index: expected a tensor of int64 or int32");
  if (!index.is_contiguous()) index = stable::contiguous(index);
  const Config config =
      config_of(strides, cell_anchors, num_cell_anchors, offsets, starts, arithmetic.value, layout.value);
  const Pyramid pyramid = config.over(request_of(level_shapes, image_shape, clip));
  const Dtype type = dtype_of(dtype.value);
  std::vector<std::int64_t> sizes(index.sizes().begin(), index.sizes().end());
  sizes.push_back(config.num_components());
  const stable::Device device = index.device();
  stable::Tensor out = empty(sizes, scalar_type_of(type), device);
  if (device.type() == DeviceType::Meta || index.numel() == 0) return out;
  if (index.const_data_ptr() == nullptr) throw std::invalid_argument("index: expected a tensor with memory");
  gather(pyramid, {index.const_data_ptr(), index_type == ScalarType::Long ? 8 : 4}, index.numel(), type,
         out.mutable_data_ptr(), place_of(device));
  return out;
}

stable::Tensor inside_op(std::vector<std::int64_t> level_shapes, Numbers strides, std::vector<double> cell_anchors,
                         std::vector<std::int64_t> num_cell_anchors, std::vector<std::int64_t> image_shape,
                         double border, Text dtype, stable::Device device, Numbers offsets, Numbers starts,
                         Text arithmetic, Text layout) {
  const Config config =
      config_of(strides, cell_anchors, num_cell_anchors, offsets, starts, arithmetic.value, layout.value);
  const Request request = request_of(level_shapes, image_shape, {});
  const Pyramid pyramid = config.over(request);
  const Question question = config.inside(pyramid, *request.image_shape, border, dtype_of(dtype.value));
  stable::Tensor out = empty(std::vector<std::int64_t>{pyramid.num_anchors}, ScalarType::Bool, device);
  if (device.type() != DeviceType::Meta)
    flags(pyramid, question, static_cast<bool*>(out.mutable_data_ptr()), place_of(device));
  return out;
}

stable::Tensor valid_flags_op(std::vector<std::int64_t> level_shapes, Numbers strides,
                              std::vector<std::int64_t> num_cell_anchors, std::vector<std::int64_t> padded_shape,
                              stable::Device device, Text arithmetic, Sides image_shape) {
  // Whether a cell is valid does not depend on its cell anchors' numbers: points will do.
  std::vector<double> points;
  for (const std::int64_t count : num_cell_anchors)
    if (count > 0 && count <= kMaxCellAnchors) points.resize(points.size() + 2 * static_cast<std::size_t>(count));
  const Config config = config_of(strides, points, num_cell_anchors, {}, {}, arithmetic.value, "point");
  const Request request = request_of(level_shapes, image_shape, {});
  const Pyramid pyramid = config.over(request);
  const Question question = config.valid(pyramid, request, *image_shape_of("padded_shape", padded_shape));
  stable::Tensor out = empty(std::vector<std::int64_t>{pyramid.num_anchors}, ScalarType::Bool, device);
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

void generate_many(const Config& config, const std::vector<ImageShape>& image_shapes, Dtype dtype, void* out,
                   Place place) {
  ANCHOR_EXT_RANGE("generate_many");
  if (image_shapes.empty()) return;
  if (!config.over({{}, image_shapes[0], {}}).plain || config.arguments().strides.empty() ||
      config.arguments().pyramid_levels.empty())  // of which the kernel takes all but the grids from one image
    throw std::invalid_argument("generate_many: expected a plain configuration with pyramid levels and strides");
  const auto pyramid_of = [&](std::size_t image) { return config.over({{}, image_shapes[image], {}}); };
  std::vector<std::int64_t> begins{0};
  for (std::size_t image = 0; image < image_shapes.size(); ++image)
    begins.push_back(begins.back() + pyramid_of(image).num_anchors);
  const std::int64_t anchor_bytes = config.num_components() * bytes_of(dtype);
  const auto at = [&](std::int64_t anchor) { return static_cast<unsigned char*>(out) + anchor * anchor_bytes; };

  if (place.device == Device::cuda)
    return on_cuda(place.index, [&](int device, void* stream) {
      for (std::size_t first = 0; first < image_shapes.size(); first += kMaxImages) {
        const std::size_t behind = std::min(first + kMaxImages, image_shapes.size());
        Batch batch;
        batch.num_anchors = begins[behind] - begins[first];
        batch.num_images = static_cast<std::int32_t>(behind - first);
        const std::vector<std::int32_t>& levels = config.arguments().pyramid_levels;
        std::copy(levels.begin(), levels.end(), batch.pyramid_levels);
        for (std::size_t image = first; image < behind; ++image)
          batch.images[image - first] = {begins[image] - begins[first],
                                         static_cast<std::int32_t>(image_shapes[image].height),
                                         static_cast<std::int32_t>(image_shapes[image].width)};
        generate_many_cuda(pyramid_of(first), batch, dtype, at(begins[first]), device, stream);
      }
    });
  on_cpu(begins.back(), grain(config.num_components(), dtype), [&](std::int64_t begin, std::int64_t end) {
    auto image = static_cast<std::size_t>(std::upper_bound(begins.begin(), begins.end(), begin) - begins.begin() - 1);
    for (; image < image_shapes.size() && begins[image] < end; ++image)
      generate_cpu(pyramid_of(image), dtype, at(begins[image]), std::max(begin - begins[image], std::int64_t{0}),
                   std::min(end, begins[image + 1]) - begins[image]);
  });
}

void gather(const Pyramid& pyramid, const Indices& indices, std::int64_t count, Dtype dtype, void* out, Place place) {
  ANCHOR_EXT_RANGE("gather");
  if (pyramid.num_anchors == 0 && count > 0)
    throw std::invalid_argument("index has " + std::to_string(count) +
                                " entries; expected none, as the grids of level_shapes have no cells");
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

NewTensor new_tensor(Sizes sizes, std::optional<Dtype> dtype, ToPython to_python) {
  if (torch_tensor_to_pyobject == nullptr && to_python == nullptr) return {};
  try {
    const stable::Tensor tensor = empty(sizes, dtype ? scalar_type_of(*dtype) : ScalarType::Bool, {DeviceType::CPU});
    void* object = nullptr;
    if (torch_tensor_to_pyobject == nullptr)
      object = to_python(tensor.get());
    else
      TORCH_ERROR_CODE_CHECK(torch_tensor_to_pyobject(tensor.get(), nullptr, &object));
    return {object, tensor.mutable_data_ptr()};
  } catch (const std::exception&) {
    return {};  // torch.empty says what is wrong
  }
}

std::optional<Extent> storage_extent(void* object) {
  if (torch_tensor_from_pyobject == nullptr) return std::nullopt;
  AtenTensorHandle handle = nullptr;
  if (torch_tensor_from_pyobject(object, &handle) != AOTI_TORCH_SUCCESS) return std::nullopt;
  const stable::Tensor tensor(handle);
  Extent extent{};
  if (aoti_torch_get_storage_size(handle, &extent.bytes) != AOTI_TORCH_SUCCESS ||
      aoti_torch_get_storage_offset(handle, &extent.offset) != AOTI_TORCH_SUCCESS)
    return std::nullopt;
  return extent;
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

// The operators carry the whole configuration: nothing is registered, nothing hidden. docs/operators.md says what every
// argument means, and which changes to the schemas saved programs forbid.
STABLE_TORCH_LIBRARY(anchor_ext, m) {
  m.def(
      "generate(SymInt[] level_shapes, float[]? strides, float[] cell_anchors, int[] num_cell_anchors, *, "
      "str dtype, Device device, float[]? offsets=None, float[]? starts=None, str arithmetic='float64', "
      "str layout='xyxy', SymInt[]? image_shape=None, SymInt[]? clip=None) -> Tensor");
  m.def(
      "gather(Tensor index, SymInt[] level_shapes, float[]? strides, float[] cell_anchors, int[] num_cell_anchors, *, "
      "str dtype, float[]? offsets=None, float[]? starts=None, str arithmetic='float64', str layout='xyxy', "
      "SymInt[]? image_shape=None, SymInt[]? clip=None) -> Tensor");
  m.def(
      "inside(SymInt[] level_shapes, float[]? strides, float[] cell_anchors, int[] num_cell_anchors, "
      "SymInt[] image_shape, float border=0., *, str dtype, Device device, float[]? offsets=None, "
      "float[]? starts=None, str arithmetic='float64', str layout='xyxy') -> Tensor");
  m.def(
      "valid_flags(SymInt[] level_shapes, float[]? strides, int[] num_cell_anchors, SymInt[] padded_shape, *, "
      "Device device, str arithmetic='float64', SymInt[]? image_shape=None) -> Tensor");
}

// The kernels look at the device themselves: most operators have no tensor among their arguments to dispatch on.
STABLE_TORCH_LIBRARY_IMPL(anchor_ext, CompositeExplicitAutograd, m) {
  m.impl("generate", TORCH_BOX(&generate_op));
  m.impl("gather", TORCH_BOX(&gather_op));
  m.impl("inside", TORCH_BOX(&inside_op));
  m.impl("valid_flags", TORCH_BOX(&valid_flags_op));
}

}  // namespace anchor_ext
