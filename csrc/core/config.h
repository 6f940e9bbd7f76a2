// What a user fixes once: cell anchors, strides, arithmetic, layout. With a call's grids it becomes a Pyramid.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "anchors/predicate.h"
#include "core/pyramid.h"

namespace anchor_ext {

struct Pair {
  double y, x;
};

struct LevelShape {
  std::int64_t rows, columns;
};

struct ImageShape {
  std::int64_t height, width;
};

// "float64", "float32", "float16" or "bfloat16".
ANCHOR_EXT_API Dtype dtype_of(const std::string& name);

// One of these, "arange" or "quotient"; or three of them, "position/centre/sum".
ANCHOR_EXT_API Arithmetic arithmetic_of(const std::string& name);

// "xyxy", "yxyx", "cxcywha", "point" or "point_stride".
ANCHOR_EXT_API Layout layout_of(const std::string& name);

// As many entries per list as there are levels; an empty one is the default.
struct ConfigArguments {
  std::vector<std::vector<double>> cell_anchors;  // per level [cell anchors, components], around the origin, in pixels
  std::vector<Pair> strides;                      // pixels; default: image side / cells
  std::vector<Pair> offsets;                      // of the first centre, in cells; default 0.5
  std::vector<Pair> starts;                       // added to the centres, in pixels; default 0
  std::vector<std::int32_t> pyramid_levels;       // 0..30, where grids are to be derived from an image
  std::string arithmetic = "float64";
  std::string layout = "xyxy";
};

// What one call brings.
struct Request {
  std::vector<LevelShape> level_shapes;   // empty where they are derived from the image
  std::optional<ImageShape> image_shape;  // that grids, strides or quotients are derived from
  std::optional<ImageShape> clip;         // to which the anchors are clipped
};

// Every constructor and method throws std::invalid_argument, with the argument, its value and what was expected.
class ANCHOR_EXT_API Config {
 public:
  explicit Config(ConfigArguments arguments);

  // The pyramid over the request's grids, or over the image: ceil(image / 2**level) rows and columns per pyramid level.
  Pyramid over(const Request& request) const;

  // Whether a cell's first pixel lies on an image of the padded shape: of rows and columns, ceil(side / stride).
  // Strides that were not given follow from the request's image.
  Question valid(const Pyramid& pyramid, const Request& request, ImageShape padded_shape) const;

  // Whether an anchor, rounded to dtype, lies within an image of this shape and `border` pixels around it.
  Question inside(const Pyramid& pyramid, ImageShape image_shape, double border, Dtype dtype) const;

  const ConfigArguments& arguments() const { return arguments_; }
  std::int32_t num_components() const { return pyramid_.layout.components; }

 private:
  std::size_t level_shapes(const Request& request, LevelShape (&level_shapes)[kMaxLevels]) const;  // how many there are
  bool is_too_many(const LevelShape* level_shapes) const;
  double stride(double given, std::int64_t image, std::int64_t cells) const;

  ConfigArguments arguments_;
  Pyramid pyramid_{};  // all but what depends on the request
};

// The operators' arguments: flat lists, level after level. Optional, since AOTInductor's packages turn an empty list
// into None.
using Numbers = std::optional<std::vector<double>>;
using Sides = std::optional<std::vector<std::int64_t>>;

ANCHOR_EXT_API Config config_of(const Numbers& strides, const std::vector<double>& cell_anchors,
                                const std::vector<std::int64_t>& num_cell_anchors, const Numbers& offsets,
                                const Numbers& starts, const std::string& arithmetic, const std::string& layout);
ANCHOR_EXT_API Request request_of(const std::vector<std::int64_t>& level_shapes, const Sides& image_shape,
                                  const Sides& clip);
std::optional<ImageShape> image_shape_of(const char* name, const Sides& shape);

}  // namespace anchor_ext
