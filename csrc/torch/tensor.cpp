#include "torch/tensor.h"

#include <sys/mman.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <vector>

#include "torch/nvtx.h"

// Since torch 2.14: the Python object of a tensor.
extern "C" __attribute__((weak)) AOTITorchError torch_tensor_to_pyobject(AtenTensorHandle tensor, void* type,
                                                                         void** object);

namespace anchor_ext {
namespace {

namespace stable = torch::stable;

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

}  // namespace

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

stable::Tensor empty(const std::vector<std::int64_t>& sizes, ScalarType dtype, stable::Device device) {
  thread_local std::vector<std::int64_t> strides;  // a call at 64x64 takes but 30 times as long as an allocation
  strides.assign(sizes.size(), 1);
  for (std::size_t i = sizes.size(); i > 1; --i)
    strides[i - 2] = strides[i - 1] * std::max<std::int64_t>(sizes[i - 1], 1);
  AtenTensorHandle handle = nullptr;
  const AOTITorchError error = aoti_torch_empty_strided(
      static_cast<std::int64_t>(sizes.size()), sizes.data(), strides.data(),
      stable::detail::to<std::int32_t>(stable::detail::from(dtype)),
      stable::detail::to<std::int32_t>(stable::detail::from(device.type())), device.index(), &handle);
  if (error != AOTI_TORCH_SUCCESS) {
    std::string shape;
    for (std::size_t i = 0; i < sizes.size(); ++i) shape += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
    throw std::runtime_error("anchor_ext: torch gives no memory for a tensor of shape (" + shape + ")");
  }
  stable::Tensor tensor(handle);
  if (device.type() == DeviceType::CPU && tensor.numel() >= static_cast<std::int64_t>(kFreshBytes / 8))
    prefer_huge_pages(tensor.mutable_data_ptr(), static_cast<std::uintptr_t>(tensor.numel()) * tensor.element_size());
  return tensor;
}

std::string shown(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Bool:
      return "bool";
    default:
      return "of another type";
  }
}

std::string shape_of(const stable::Tensor& tensor) {
  std::string result = "(";
  for (std::int64_t i = 0; i < tensor.dim(); ++i) result += (i == 0 ? "" : ", ") + std::to_string(tensor.size(i));
  return result + ")";
}

std::string shown(const stable::Tensor& tensor) {
  const stable::Device device = tensor.device();
  const std::string result = shown(tensor.scalar_type()) + " " + shape_of(tensor) + " on ";
  if (device.type() == DeviceType::CUDA) return result + "cuda:" + std::to_string(device.index());
  return result + (device.type() == DeviceType::CPU ? "cpu" : device.type() == DeviceType::Meta ? "meta" : "a device");
}

Place place_of(stable::Device device) {
  if (device.type() == DeviceType::CUDA) return {Device::cuda, device.index()};
  if (device.type() == DeviceType::CPU) return {Device::cpu, -1};
  throw std::invalid_argument("device: expected cpu, cuda or meta");
}

NewTensor new_tensor(const std::vector<std::int64_t>& sizes, Dtype dtype) {
  if (torch_tensor_to_pyobject == nullptr) return {};
  try {
    const stable::Tensor tensor = empty(sizes, scalar_type_of(dtype), {DeviceType::CPU});
    void* object = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_tensor_to_pyobject(tensor.get(), nullptr, &object));
    return {object, tensor.mutable_data_ptr()};
  } catch (const std::exception&) {
    return {};  // torch.empty says what is wrong
  }
}

std::map<std::string, std::string> build_info() {
  const auto version = [](int shift) { return std::to_string((TORCH_TARGET_VERSION >> shift) & 0xff); };
  return {{"torch_built_with", ANCHOR_EXT_TORCH_VERSION},
          {"torch_oldest", version(56) + "." + version(48)},
          {"compiler", __VERSION__},
          {"cuda", ANCHOR_EXT_CUDA_VERSION},
          {"cuda_archs", ANCHOR_EXT_CUDA_ARCHS},
          {"nvtx", ANCHOR_EXT_NVTX ? "yes" : ""}};
}

}  // namespace anchor_ext
