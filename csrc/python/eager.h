// What every eager call from Python needs: its arguments as the core's data, a tensor to write into; and the whole call
// in its common form. No torch header but the plain C one of DLPack: tensors
// stay Python objects.
#pragma once

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "anchors/op.h"
#include "core/config.h"

namespace anchor_ext {

namespace py = pybind11;

// A Python object that the process needs once; it outlives the interpreter's shutdown.
#define ANCHOR_EXT_PYTHON_ONCE(expression)                                                             \
  ([]() -> const py::object& {                                                                         \
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> storage;                    \
    return storage.call_once_and_store_result([]() -> py::object { return expression; }).get_stored(); \
  }())

// Python's own error, where a call returned none.
py::object steal(PyObject* result);

// A shape as users pass it; `name` is the argument's, for the error.
ImageShape to_image_shape(py::handle shape, const char* name);

// level_shapes, image_shape and clip are shapes or None.
Request to_request(py::handle level_shapes, py::handle image_shape, py::handle clip);
Pyramid over(const Config& config, py::handle level_shapes, py::handle image_shape, py::handle clip = py::none());

// A tensor without numbers yet, and its memory.
struct Empty {
  py::object tensor;
  void* memory;
  Place place;
};

// Without a dtype: of flags.
Empty make_empty(Sizes sizes, py::handle torch_dtype, std::optional<Dtype> dtype, py::handle torch_device,
                 Device device);

// See eager.cpp.
py::object quick_generate(py::object config);

}  // namespace anchor_ext
