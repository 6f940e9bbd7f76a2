// Python meets the core: the validated configuration and the eager call. No torch header: tensors stay Python objects.
#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "config.h"
#include "ops.h"

namespace py = pybind11;

namespace anchor_ext {
namespace {

using ImageShape = std::pair<std::int64_t, std::int64_t>;  // height, width
using Pairs = std::vector<std::array<double, 2>>;
using Boxes = std::vector<std::vector<std::array<double, 4>>>;

std::vector<Stride> to_strides(const Pairs& pairs) {
  std::vector<Stride> strides;
  for (const auto& [y, x] : pairs) strides.push_back({y, x});
  return strides;
}

std::vector<std::vector<Box>> to_cell_anchors(const Boxes& boxes) {
  std::vector<std::vector<Box>> cell_anchors;
  for (const auto& level : boxes) {
    cell_anchors.emplace_back();
    for (const auto& [x1, y1, x2, y2] : level) cell_anchors.back().push_back({x1, y1, x2, y2});
  }
  return cell_anchors;
}

// A Python object that the process needs once; it outlives the interpreter's shutdown.
#define ANCHOR_EXT_PYTHON_ONCE(expression)                                                             \
  ([]() -> const py::object& {                                                                         \
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> storage;                    \
    return storage.call_once_and_store_result([]() -> py::object { return expression; }).get_stored(); \
  }())

// A tuple of two ints, as nearly every caller has it, is read here; Python reads the rest, or says what is wrong.
ImageShape to_image_shape(py::handle image_shape) {
  const auto read = [](py::handle shape, ImageShape& sides) {
    if (!PyTuple_Check(shape.ptr()) || PyTuple_GET_SIZE(shape.ptr()) != 2) return false;
    std::int64_t* const into[2] = {&sides.first, &sides.second};
    for (int i = 0; i < 2; ++i) {
      PyObject* side = PyTuple_GET_ITEM(shape.ptr(), i);
      int overflow = 0;
      if (!PyLong_CheckExact(side)) return false;
      *into[i] = PyLong_AsLongLongAndOverflow(side, &overflow);
      if (overflow != 0) return false;
    }
    return true;
  };
  ImageShape sides{};
  if (read(image_shape, sides)) return sides;
  const py::object& parse = ANCHOR_EXT_PYTHON_ONCE(py::module_::import("anchor_ext._arguments").attr("image_shape"));
  read(parse(image_shape), sides);
  return sides;
}

Pyramid over(const Config& config, py::handle image_shape) {
  const auto [height, width] = to_image_shape(image_shape);
  return config.over_image(height, width);
}

py::object steal(PyObject* result) {
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

std::vector<ImageShape> level_shapes(const Config& config, py::handle image_shape) {
  const Pyramid pyramid = over(config, image_shape);
  std::vector<ImageShape> shapes;
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l)
    shapes.emplace_back(pyramid.levels[l].rows, pyramid.levels[l].columns);
  return shapes;
}

std::vector<std::int64_t> level_sizes(const Config& config, py::handle image_shape) {
  const Pyramid pyramid = over(config, image_shape);
  std::vector<std::int64_t> sizes;
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l) {
    const Level& level = pyramid.levels[l];
    sizes.push_back(level.rows * level.columns * level.num_cell_anchors);
  }
  return sizes;
}

std::int64_t num_anchors(const Config& config, py::handle image_shape) { return over(config, image_shape).num_anchors; }

// Fills memory that the caller has checked.
void fill(const Config& config, py::handle image_shape, std::uintptr_t out, Dtype dtype, Device device,
          std::int32_t device_index) {
  const Pyramid pyramid = over(config, image_shape);
  const py::gil_scoped_release release;
  generate(pyramid, dtype, reinterpret_cast<void*>(out), device, device_index);
}

// The eager call: torch.empty((1, N, 4)), filled. Chosen by measuring a call at 64x64, where the call is all the cost,
// in us (torch 2.13 on one thread of an AMD EPYC; torch.full of the same tensor 1.5, torch.empty 1.3):
//   2.2   this: one call into C++, which calls torch.empty and fills its memory
//   2.4   torch.empty and the same fill, called from Python
//  14.5   torch.ops.anchor_ext.generate, whose configuration of 205 numbers crosses the dispatcher boxed
py::object generate_eagerly(const Config& config, py::handle image_shape, py::handle torch_dtype, Dtype dtype,
                            py::handle torch_device, Device device) {
  const Pyramid pyramid = over(config, image_shape);
  const py::object& empty = ANCHOR_EXT_PYTHON_ONCE(py::module_::import("torch").attr("empty"));
  const py::object& keywords = ANCHOR_EXT_PYTHON_ONCE(py::make_tuple("dtype", "device"));
  const py::object& data_ptr = ANCHOR_EXT_PYTHON_ONCE(py::str("data_ptr"));
  const py::object& get_device = ANCHOR_EXT_PYTHON_ONCE(py::str("get_device"));

  const py::tuple shape = py::make_tuple(1, pyramid.num_anchors, 4);
  PyObject* const arguments[] = {shape.ptr(), torch_dtype.ptr(), torch_device.ptr()};
  py::object out = steal(PyObject_Vectorcall(empty.ptr(), arguments, 1, keywords.ptr()));
  void* const memory = PyLong_AsVoidPtr(steal(PyObject_CallMethodNoArgs(out.ptr(), data_ptr.ptr())).ptr());
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  if (memory == nullptr) throw std::runtime_error("anchor_ext: torch.empty gave a tensor without memory");
  std::int32_t device_index = -1;
  if (device == Device::cuda)
    device_index = steal(PyObject_CallMethodNoArgs(out.ptr(), get_device.ptr())).cast<std::int32_t>();
  {
    const py::gil_scoped_release release;
    generate(pyramid, dtype, memory, device, device_index);
  }
  return out;
}

py::tuple state(const Config& config) {
  Pairs strides;
  for (const Stride& stride : config.strides()) strides.push_back({stride.y, stride.x});
  Boxes cell_anchors;
  for (const std::vector<Box>& level : config.cell_anchors()) {
    cell_anchors.emplace_back();
    for (const Box& box : level) cell_anchors.back().push_back({box.x1, box.y1, box.x2, box.y2});
  }
  return py::make_tuple(strides, cell_anchors, config.pyramid_levels());
}

Config make_config(const Pairs& strides, const Boxes& cell_anchors, const std::vector<std::int32_t>& pyramid_levels) {
  return Config(to_strides(strides), to_cell_anchors(cell_anchors), pyramid_levels);
}

py::dict build_info_dict() {
  const BuildInfo info = build_info();
  const auto or_none = [](const std::string& text) -> py::object {
    if (text.empty()) return py::none();
    return py::str(text);
  };
  py::dict dict;
  dict["torch_built_with"] = info.torch;
  dict["torch_oldest"] = info.torch_target;
  dict["compiler"] = info.compiler;
  dict["cuda"] = or_none(info.cuda);
  dict["cuda_archs"] = py::str(info.cuda_archs).attr("split")();
  dict["nvtx"] = info.nvtx;
  return dict;
}

}  // namespace
}  // namespace anchor_ext

PYBIND11_MODULE(_core, m) {
  using namespace anchor_ext;
  m.attr("MAX_SIDE") = kMaxSide;
  m.attr("MAX_LEVELS") = kMaxLevels;
  m.attr("MAX_CELL_ANCHORS") = kMaxCellAnchors;
  m.def("build_info", &build_info_dict);

  py::enum_<Dtype>(m, "Dtype")
      .value("float32", Dtype::float32)
      .value("float64", Dtype::float64)
      .value("float16", Dtype::float16)
      .value("bfloat16", Dtype::bfloat16);
  py::enum_<Device>(m, "Device").value("cpu", Device::cpu).value("cuda", Device::cuda);

  py::class_<Config>(m, "Config")
      .def(py::init(&make_config), py::arg("strides"), py::arg("cell_anchors"), py::arg("pyramid_levels"))
      .def("level_shapes", &level_shapes, py::arg("image_shape"))
      .def("level_sizes", &level_sizes, py::arg("image_shape"))
      .def("num_anchors", &num_anchors, py::arg("image_shape"))
      .def("fill", &fill)
      .def("generate", &generate_eagerly)
      .def(py::pickle(&state, [](const py::tuple& state) {
        return make_config(state[0].cast<Pairs>(), state[1].cast<Boxes>(), state[2].cast<std::vector<std::int32_t>>());
      }));
}
