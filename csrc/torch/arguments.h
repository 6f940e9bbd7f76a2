// What operators check of the tensors that they are given.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/rounding.h"
#include "torch/tensor.h"

namespace anchor_ext {

inline torch::stable::Tensor as_contiguous(const torch::stable::Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Contiguous, of this shape and dtype, on the device of the tensor that `first` names.
inline torch::stable::Tensor checked(const char* name, const torch::stable::Tensor& tensor,
                                     const std::vector<std::int64_t>& sizes, ScalarType dtype,
                                     const torch::stable::Tensor& like, const char* first) {
  bool fits = tensor.dim() == static_cast<std::int64_t>(sizes.size());
  for (std::size_t i = 0; fits && i < sizes.size(); ++i) fits = tensor.size(static_cast<std::int64_t>(i)) == sizes[i];
  if (!fits) {
    std::string has, expected;
    for (std::int64_t i = 0; i < tensor.dim(); ++i) has += (i == 0 ? "" : ", ") + std::to_string(tensor.size(i));
    for (const std::int64_t size : sizes) expected += (expected.empty() ? "" : ", ") + std::to_string(size);
    throw std::invalid_argument(std::string(name) + " has shape (" + has + "); expected (" + expected + ")");
  }
  if (tensor.scalar_type() != dtype || tensor.device() != like.device())
    throw std::invalid_argument(std::string(name) + ": expected another dtype, or the device of " + first);
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
      throw std::invalid_argument(std::string(name) + ": expected float32, float64, float16 or bfloat16");
  }
}

inline ScalarType computed_type(ScalarType dtype) { return dtype == ScalarType::Double ? dtype : ScalarType::Float; }

}  // namespace anchor_ext
