// Python meets the core: the spec, what it says of a call, and the eager call. No torch header here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "anchors/op.h"
#include "core/spec.h"
#include "match/rule.h"
#include "python/eager.h"

namespace anchor_ext {
namespace {

namespace py = pybind11;

using Integers = std::vector<std::int64_t>;
using Pairs = std::vector<std::pair<double, double>>;

Pairs from_pairs(const std::vector<Pair>& pairs) {
  Pairs numbers;
  for (const auto [y, x] : pairs) numbers.emplace_back(y, x);
  return numbers;
}

Integers num_cell_anchors(const Spec& spec) {
  Integers counts;
  for (const std::vector<double>& level : spec.parts().cell_anchors)
    counts.push_back(static_cast<std::int64_t>(level.size()) / spec.layout().components);
  return counts;
}

std::vector<std::pair<std::int64_t, std::int64_t>> level_shapes(const Spec& spec, const Sides& level_shapes,
                                                                const Sides& image_shape) {
  const Pyramid pyramid = spec.over(request_of(level_shapes, image_shape, {}));
  std::vector<std::pair<std::int64_t, std::int64_t>> shapes;
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l)
    shapes.emplace_back(pyramid.levels[l].y.cells, pyramid.levels[l].x.cells);
  return shapes;
}

std::int64_t num_anchors(const Spec& spec, const Sides& level_shapes, const Sides& image_shape, const Sides& clip) {
  return spec.num_anchors(request_of(level_shapes, image_shape, clip));
}

// Every anchor into memory that the caller has checked.
void fill(const Spec& spec, const Sides& level_shapes, const Sides& image_shape, const Sides& clip,
          const std::string& dtype, std::uintptr_t out, bool is_cuda, std::int32_t device_index) {
  const Pyramid pyramid = spec.over(request_of(level_shapes, image_shape, clip));
  const py::gil_scoped_release release;
  generate(pyramid, dtype_of(dtype), reinterpret_cast<void*>(out),
           {is_cuda ? Device::cuda : Device::cpu, device_index});
}

// How positions come about, and what the position, the centre and the sum are rounded to.
std::tuple<Grid, Dtype, Dtype, Dtype> roundings(const Spec& spec) {
  const auto [grid, position, centre, sum] = spec.arithmetic();
  return {grid, position, centre, sum};
}

// How many components; and the bits of those along x, along y, that are lower bounds, upper bounds.
std::tuple<int, int, int, int, int> bits_of(const Layout& layout) {
  return {layout.components, layout.along_x, layout.along_y, layout.low, layout.high};
}

}  // namespace
}  // namespace anchor_ext

PYBIND11_MODULE(_core, m) {
  using namespace anchor_ext;
  m.attr("MAX_CELL_ANCHORS") = kMaxCellAnchors;
  m.attr("LAYOUTS") = py::make_tuple("xyxy", "yxyx", "cxcywha", "point", "point_stride");
  m.def("build_info", &build_info);
  m.def("check_matcher", [](const std::string& matcher) { rule_of(matcher); });
  m.def("check_pyramid_levels", &check_pyramid_levels);
  m.def("check_shape", [](const std::string& name, const Integers& sides, std::int64_t least) {
    check_shape(name.c_str(), image_shape_of(name.c_str(), sides), least);
  });
  m.def("components", [](const std::string& layout) { return layout_of(layout).components; });
  m.def("canonical", [](const std::string& spec) { return Spec(Spec(spec).parts()).text(); });
  m.def("eager_generate", &eager_generate);

  py::enum_<Dtype>(m, "Dtype")
      .value("float32", Dtype::float32)
      .value("float64", Dtype::float64)
      .value("float16", Dtype::float16)
      .value("bfloat16", Dtype::bfloat16);
  py::enum_<Grid>(m, "Grid")
      .value("product", Grid::product)
      .value("quotient", Grid::quotient)
      .value("arange", Grid::arange);

  py::class_<Spec, std::shared_ptr<Spec>>(m, "Spec")
      .def(py::init([](const std::string& text) { return std::make_shared<Spec>(text); }))
      .def_property_readonly("text", &Spec::text)
      .def_property_readonly("layout", [](const Spec& spec) { return spec.parts().layout; })
      .def_property_readonly("arithmetic", [](const Spec& spec) { return spec.parts().arithmetic; })
      .def_property_readonly("pyramid_levels", [](const Spec& spec) { return spec.parts().pyramid_levels; })
      .def_property_readonly("strides", [](const Spec& spec) { return from_pairs(spec.parts().strides); })
      .def_property_readonly("offsets", [](const Spec& spec) { return from_pairs(spec.parts().offsets); })
      .def_property_readonly("starts", [](const Spec& spec) { return from_pairs(spec.parts().starts); })
      .def_property_readonly("cell_anchors", [](const Spec& spec) { return spec.parts().cell_anchors; })
      .def_property_readonly("num_cell_anchors", &num_cell_anchors)
      .def_property_readonly("num_components", [](const Spec& spec) { return spec.layout().components; })
      .def_property_readonly("roundings", &roundings)
      .def_property_readonly("bits", [](const Spec& spec) { return bits_of(spec.layout()); })
      .def("level_shapes", &level_shapes)
      .def("num_anchors", &num_anchors)
      .def("fill", &fill);
}
