// What a user fixes once: cell anchors, strides, arithmetic, layout. With a call's grids it becomes a Pyramid.
//
// All of it is one text, the spec, which every operator takes and every saved program holds. Its grammar, and which
// versions of it a program may meet, are in docs/operators.md.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

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

// What a spec says, as data. As many entries per list as there are levels; an empty one is the default.
struct SpecParts {
  std::vector<std::vector<double>> cell_anchors;  // per level [cell anchors, components], around the origin, in pixels
  std::vector<Pair> strides;                      // pixels; default: image side / cells
  std::vector<Pair> offsets;                      // of the first centre, in cells; default 0.5
  std::vector<Pair> starts;                       // added to the centres, in pixels; default 0
  std::vector<std::int64_t> pyramid_levels;       // 0..30, where grids are to be derived from an image
  std::string arithmetic = "float64";
  std::string layout = "xyxy";
};

// What one call brings.
struct Request {
  std::vector<LevelShape> level_shapes;   // empty where they are derived from the image
  std::optional<ImageShape> image_shape;  // that grids, strides or quotients are derived from
  std::optional<ImageShape> clip;         // to which the anchors are clipped
};

// Constructors and methods throw std::invalid_argument, with the argument, its value and what was expected.
class ANCHOR_EXT_API Spec {
 public:
  explicit Spec(std::string_view text);
  explicit Spec(SpecParts parts);

  // The pyramid over the request's grids or, where it has none, over the image: ceil(image / 2**level) rows and columns
  // per pyramid level.
  Pyramid over(const Request& request) const;

  // As many anchors as that has, for less.
  std::int64_t num_anchors(const Request& request) const;

  // The text that it was made of; of parts, the canonical one.
  const std::string& text() const { return text_; }
  const SpecParts& parts() const { return parts_; }
  const Arithmetic& arithmetic() const { return pyramid_.arithmetic; }
  const Layout& layout() const { return pyramid_.layout; }

  // A level's stride as it was given, or {0, 0}.
  Pair given_stride(std::int32_t level) const { return parts_.strides.empty() ? Pair{0, 0} : parts_.strides[level]; }

 private:
  Spec(SpecParts parts, std::string text);
  std::int64_t check(const Request& request, LevelShape (&level_shapes)[kMaxLevels]) const;  // how many anchors

  SpecParts parts_;
  std::string text_;
  Pyramid pyramid_{};  // all but what depends on the request
};

// The spec of a text; the last few that were asked for are kept.
ANCHOR_EXT_API std::shared_ptr<const Spec> spec_of(std::string_view text);

// A spec's text to what it says, and back: without checking more than that it can be read.
SpecParts parts_of(std::string_view text);
std::string text_of(const SpecParts& parts);

// "float64", "float32", "float16" or "bfloat16".
ANCHOR_EXT_API Dtype dtype_of(std::string_view name);

// One of these, "arange" or "quotient"; or three of them, "position/centre/sum".
Arithmetic arithmetic_of(std::string_view name);

// "xyxy", "yxyx", "cxcywha", "point" or "point_stride".
ANCHOR_EXT_API Layout layout_of(std::string_view name);

// For a number of cells, classes and the like, which may be 0: nothing is divided by it then.
Divider divider_of(std::int64_t divisor);

// Distinct levels of a feature pyramid.
ANCHOR_EXT_API void check_pyramid_levels(const std::vector<std::int64_t>& levels);

// An image's shape, with sides no less than `least`.
ANCHOR_EXT_API void check_shape(const char* name, ImageShape shape, std::int64_t least);

// A call's arguments as the operators have them: flat lists, level after level, None where absent.
// (AOTInductor's packages turn an empty list into None.)
using Sides = std::optional<std::vector<std::int64_t>>;
ANCHOR_EXT_API Request request_of(const Sides& level_shapes, const Sides& image_shape, const Sides& clip);
ANCHOR_EXT_API ImageShape image_shape_of(const char* name, const std::vector<std::int64_t>& sides);

template <typename... Parts>
[[noreturn]] void reject(const Parts&... parts) {
  std::ostringstream message;
  message.precision(17);
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

}  // namespace anchor_ext
