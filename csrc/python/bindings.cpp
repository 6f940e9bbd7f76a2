// Python meets the core: the validated configuration and the eager call. No torch header: tensors stay Python objects.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "anchors/op.h"
#include "core/config.h"
#include "python/eager.h"

namespace anchor_ext {
namespace {

using Pairs = std::vector<std::array<double, 2>>;

std::vector<Pair> to_pairs(const Pairs& numbers) {
  std::vector<Pair> pairs;
  for (const auto& [y, x] : numbers) pairs.push_back({y, x});
  return pairs;
}

Pairs from_pairs(const std::vector<Pair>& pairs) {
  Pairs numbers;
  for (const auto& [y, x] : pairs) numbers.push_back({y, x});
  return numbers;
}

std::vector<std::pair<std::int64_t, std::int64_t>> level_shapes(const Config& config, py::handle level_shapes,
                                                                py::handle image_shape) {
  const Pyramid pyramid = over(config, level_shapes, image_shape);
  std::vector<std::pair<std::int64_t, std::int64_t>> shapes;
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l)
    shapes.emplace_back(pyramid.levels[l].y.cells, pyramid.levels[l].x.cells);
  return shapes;
}

std::vector<std::int64_t> level_sizes(const Config& config, py::handle level_shapes, py::handle image_shape) {
  const Pyramid pyramid = over(config, level_shapes, image_shape);
  std::vector<std::int64_t> sizes;
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l) {
    const Level& level = pyramid.levels[l];
    sizes.push_back(level.y.cells * level.x.cells * level.num_cell_anchors);
  }
  return sizes;
}

std::int64_t num_anchors(const Config& config, py::handle level_shapes, py::handle image_shape, py::handle clip) {
  return over(config, level_shapes, image_shape, clip).num_anchors;
}

// Fills memory that the caller has checked.
void fill(const Config& config, py::handle level_shapes, py::handle image_shape, py::handle clip, std::uintptr_t out,
          Dtype dtype, Device device, std::int32_t device_index) {
  const Pyramid pyramid = over(config, level_shapes, image_shape, clip);
  const py::gil_scoped_release release;
  generate(pyramid, dtype, reinterpret_cast<void*>(out), {device, device_index});
}

// torch.empty((N, components)), or (1, N, components) where `batched`, filled.
py::object generate_eagerly(const Config& config, py::handle level_shapes, py::handle image_shape, py::handle clip,
                            bool batched, py::handle torch_dtype, Dtype dtype, py::handle torch_device, Device device) {
  const Pyramid pyramid = over(config, level_shapes, image_shape, clip);
  const std::int32_t components = config.num_components();
  std::vector<std::int64_t> sizes{pyramid.num_anchors, components};
  if (batched) sizes.insert(sizes.begin(), 1);
  Empty out = make_empty(sizes, torch_dtype, dtype, torch_device, device);
  const py::gil_scoped_release release;
  generate(pyramid, dtype, out.memory, out.place);
  return std::move(out.tensor);
}

// Of many images, one after another in one tensor (1, N, components), and how many anchors each has.
std::pair<py::object, std::vector<std::int64_t>> generate_many_eagerly(const Config& config,
                                                                       const std::vector<py::object>& image_shapes,
                                                                       py::handle torch_dtype, Dtype dtype,
                                                                       py::handle torch_device, Device device) {
  std::vector<ImageShape> shapes;
  std::vector<std::int64_t> counts;
  std::int64_t total = 0;
  for (std::size_t i = 0; i < image_shapes.size(); ++i) {
    shapes.push_back(to_image_shape(image_shapes[i], ("image_shapes[" + std::to_string(i) + "]").c_str()));
    try {
      counts.push_back(config.over({{}, shapes.back(), {}}).num_anchors);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("image_shapes[" + std::to_string(i) + "]: " + error.what());
    }
    if (counts.back() > kMaxAnchors - total)
      throw std::invalid_argument("image_shapes has " + std::to_string(image_shapes.size()) +
                                  " images; expected at most 2**58 - 1 anchors in all");
    total += counts.back();
  }
  Empty out = make_empty(std::vector<std::int64_t>{1, total, config.num_components()}, torch_dtype, dtype, torch_device,
                         device);
  const py::gil_scoped_release release;
  generate_many(config, shapes, dtype, out.memory, out.place);
  return {std::move(out.tensor), std::move(counts)};
}

py::object flags_eagerly(const Pyramid& pyramid, const Question& question, py::handle torch_device, Device device) {
  const py::object& torch_bool = ANCHOR_EXT_PYTHON_ONCE(py::module_::import("torch").attr("bool"));
  Empty out =
      make_empty(std::vector<std::int64_t>{pyramid.num_anchors}, torch_bool, std::nullopt, torch_device, device);
  const py::gil_scoped_release release;
  flags(pyramid, question, static_cast<bool*>(out.memory), out.place);
  return std::move(out.tensor);
}

py::object valid_flags(const Config& config, py::handle level_shapes, py::handle image_shape, py::handle padded_shape,
                       py::handle torch_device, Device device) {
  const Request request = to_request(level_shapes, image_shape, py::none());
  const Pyramid pyramid = config.over(request);
  const Question question = config.valid(pyramid, request, to_image_shape(padded_shape, "padded_shape"));
  return flags_eagerly(pyramid, question, torch_device, device);
}

py::object inside(const Config& config, py::handle level_shapes, py::handle image_shape, double border, Dtype dtype,
                  py::handle torch_device, Device device) {
  const Pyramid pyramid = over(config, level_shapes, image_shape);
  const Question question = config.inside(pyramid, to_image_shape(image_shape, "image_shape"), border, dtype);
  return flags_eagerly(pyramid, question, torch_device, device);
}

// The anchors at `count` flat indices in memory that the caller has checked.
py::object gather_eagerly(const Config& config, py::handle level_shapes, py::handle image_shape, py::handle clip,
                          std::uintptr_t indices, std::int32_t bytes, const py::tuple& shape, py::handle torch_dtype,
                          Dtype dtype, py::handle torch_device, Device device) {
  const Pyramid pyramid = over(config, level_shapes, image_shape, clip);
  std::int64_t count = 1;
  std::vector<std::int64_t> sizes;
  for (const py::handle side : shape) {
    sizes.push_back(side.cast<std::int64_t>());
    count *= sizes.back();
  }
  sizes.push_back(config.num_components());
  if (count == 0) {
    const py::object& empty = ANCHOR_EXT_PYTHON_ONCE(py::module_::import("torch").attr("empty"));
    return empty(py::cast(sizes), py::arg("dtype") = torch_dtype, py::arg("device") = torch_device);
  }
  Empty out = make_empty(sizes, torch_dtype, dtype, torch_device, device);
  const py::gil_scoped_release release;
  gather(pyramid, {reinterpret_cast<const void*>(indices), bytes}, count, dtype, out.memory, out.place);
  return std::move(out.tensor);
}

Config make_config(const std::vector<std::vector<double>>& cell_anchors, const Pairs& strides, const Pairs& offsets,
                   const Pairs& starts, const std::vector<std::int32_t>& pyramid_levels, const std::string& arithmetic,
                   const std::string& layout) {
  return Config(
      {cell_anchors, to_pairs(strides), to_pairs(offsets), to_pairs(starts), pyramid_levels, arithmetic, layout});
}

py::tuple state(const Config& config) {
  const ConfigArguments& arguments = config.arguments();
  return py::make_tuple(arguments.cell_anchors, from_pairs(arguments.strides), from_pairs(arguments.offsets),
                        from_pairs(arguments.starts), arguments.pyramid_levels, arguments.arithmetic, arguments.layout);
}

Config from_state(const py::tuple& state) {
  return make_config(state[0].cast<std::vector<std::vector<double>>>(), state[1].cast<Pairs>(), state[2].cast<Pairs>(),
                     state[3].cast<Pairs>(), state[4].cast<std::vector<std::int32_t>>(), state[5].cast<std::string>(),
                     state[6].cast<std::string>());
}

// Throws what the operators would throw.
void check(const std::vector<std::int64_t>& level_shapes, const Numbers& strides,
           const std::vector<double>& cell_anchors, const std::vector<std::int64_t>& num_cell_anchors,
           const Numbers& offsets, const Numbers& starts, const std::string& arithmetic, const std::string& layout,
           const Sides& image_shape, const Sides& clip) {
  config_of(strides, cell_anchors, num_cell_anchors, offsets, starts, arithmetic, layout)
      .over(request_of(level_shapes, image_shape, clip));
}

// What a name stands for: how positions come about, and what the position, the centre and the sum are rounded to.
std::tuple<Grid, Dtype, Dtype, Dtype> arithmetic(const std::string& name) {
  const auto [grid, position, centre, sum] = arithmetic_of(name);
  return {grid, position, centre, sum};
}

// By name, the bits of its components: those along x, along y, lower bounds, upper bounds; and how many there are.
py::dict layouts() {
  py::dict dict;
  for (const char* name : {"xyxy", "yxyx", "cxcywha", "point", "point_stride"}) {
    const Layout layout = layout_of(name);
    dict[name] = py::make_tuple(layout.components, layout.along_x, layout.along_y, layout.low, layout.high);
  }
  return dict;
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
  py::enum_<Grid>(m, "Grid")
      .value("product", Grid::product)
      .value("quotient", Grid::quotient)
      .value("arange", Grid::arange);
  m.def("check", &check);
  m.def("arithmetic", &arithmetic);
  m.attr("LAYOUTS") = layouts();
  py::enum_<Device>(m, "Device").value("cpu", Device::cpu).value("cuda", Device::cuda);

  py::class_<Config>(m, "Config")
      .def(py::init(&make_config), py::arg("cell_anchors"), py::arg("strides"), py::arg("offsets") = Pairs(),
           py::arg("starts") = Pairs(), py::arg("pyramid_levels") = std::vector<std::int32_t>(),
           py::arg("arithmetic") = "float64", py::arg("layout") = "xyxy")
      .def_property_readonly("num_components", &Config::num_components)
      .def("level_shapes", &level_shapes)
      .def("level_sizes", &level_sizes)
      .def("num_anchors", &num_anchors)
      .def("fill", &fill)
      .def("generate", &generate_eagerly)
      .def_property_readonly("quick", &quick_generate)
      .def("generate_many", &generate_many_eagerly)
      .def("gather", &gather_eagerly)
      .def("inside", &inside)
      .def("valid_flags", &valid_flags)
      .def(py::pickle(&state, &from_state));
}
