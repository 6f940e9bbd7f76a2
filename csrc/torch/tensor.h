// What every family needs to meet torch, through libtorch's stable ABI: texts, types, devices and memory.
#pragma once

#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "torch/interface.h"

namespace anchor_ext {

// An operator's `str`, not copied: torch 2.11's own conversion to std::string loses the memory of every string that it
// reads.
class Text {
 public:
  explicit Text(StringHandle handle) : handle_(handle, &torch_delete_string) {}
  std::string_view view() const {
    std::size_t length = 0;
    const char* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle_.get(), &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle_.get(), &data));
    return {data, length};
  }

 private:
  std::shared_ptr<std::remove_pointer_t<StringHandle>> handle_;
};

using torch::headeronly::DeviceType;
using torch::headeronly::ScalarType;

ScalarType scalar_type_of(Dtype dtype);

// As messages say what a tensor is: "int64 (2, 3) on cuda:0".
std::string shown(ScalarType dtype);
std::string shown(const torch::stable::Tensor& tensor);
std::string shape_of(const torch::stable::Tensor& tensor);  // "(2, 3)"

// A tensor with numbers yet to be written; throws std::runtime_error where there is no memory for it.
torch::stable::Tensor empty(const std::vector<std::int64_t>& sizes, ScalarType dtype, torch::stable::Device device);

// Where a tensor's numbers are to be written. Any device but CUDA and meta is served by the CPU and a copy, in Python.
Place place_of(torch::stable::Device device);

}  // namespace anchor_ext

template <>
struct torch::stable::detail::ToImpl<anchor_ext::Text> {
  static anchor_ext::Text call(StableIValue value, uint64_t, bool) { return anchor_ext::Text(to<StringHandle>(value)); }
};
