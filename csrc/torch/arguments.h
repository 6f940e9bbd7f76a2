// What operators check of the tensors that they are given.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/rounding.h"
#include "core/spec.h"
#include "torch/tensor.h"

namespace anchor_ext {

inline torch::stable::Tensor as_contiguous(const torch::stable::Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Contiguous, of this shape and dtype, and on the device of `like`, whose name is `like_name`.
inline torch::stable::Tensor checked(const char* name, const torch::stable::Tensor& tensor,
                                     const std::vector<std::int64_t>& sizes, ScalarType dtype,
                                     const torch::stable::Tensor& like, const char* like_name) {
  bool fits = tensor.dim() == static_cast<std::int64_t>(sizes.size());
  for (std::size_t i = 0; fits && i < sizes.size(); ++i) fits = tensor.size(static_cast<std::int64_t>(i)) == sizes[i];
  if (!fits) {
    std::string expected;
    for (const std::int64_t size : sizes) expected += (expected.empty() ? "" : ", ") + std::to_string(size);
    reject(name, " has shape ", shape_of(tensor), "; expected (", expected, ")");
  }
  if (tensor.scalar_type() != dtype || tensor.device() != like.device())
    reject(name, " is ", shown(tensor), "; expected ", shown(dtype), ", on the device of ", like_name);
  return as_contiguous(tensor);
}

// Calls call(T{}) with the type of what the argument `name` holds.
template <typename Call>
void with_type(const char* name, ScalarType dtype, const Call& call) {
  switch (dtype) {
    case ScalarType::Float:
      return call(float{});
    case ScalarType::Double:
      return call(double{});
    case ScalarType::Half:
      return call(Float16{});
    case ScalarType::BFloat16:
      return call(BFloat16{});
    default:
      reject(name, " is ", shown(dtype), "; expected float32, float64, float16 or bfloat16");
  }
}

inline ScalarType computed_type(ScalarType dtype) { return dtype == ScalarType::Double ? dtype : ScalarType::Float; }

}  // namespace anchor_ext
