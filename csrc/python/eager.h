// The eager call of generate, without torch's dispatcher. No torch header: tensors stay Python objects.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "core/spec.h"

namespace anchor_ext {

// A callable of (level_shapes, image_shape, clip, batched, dtype, device) to a tensor, or to None where an argument has
// not its usual form and nothing has been done: Python then takes the longer way. `dtypes` and `devices` are dicts from
// what a user passes to the number of a Dtype, and to (torch.device, whether it is CUDA).
pybind11::object eager_generate(std::shared_ptr<const Spec> spec, pybind11::dict dtypes, pybind11::dict devices);

}  // namespace anchor_ext
