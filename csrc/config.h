// What a user fixes once: strides, cell anchors and perhaps pyramid levels. With an image's grids it becomes a Pyramid.
#pragma once

#include <cstdint>
#include <vector>

#include "pyramid.h"

namespace anchor_ext {

struct Stride {
  double y, x;
};

struct LevelShape {
  std::int64_t rows, columns;
};

// Every constructor and method throws std::invalid_argument, with the argument, its value and what was expected.
class ANCHOR_EXT_API Config {
 public:
  // One stride and one list of cell anchors (around the origin, in pixels) per level; pyramid levels in 0..30, as many,
  // where grids are to be derived from an image.
  Config(const std::vector<Stride>& strides, const std::vector<std::vector<Box>>& cell_anchors,
         std::vector<std::int32_t> pyramid_levels = {});

  // The pyramid over the given grids, one per level.
  Pyramid over_grids(const std::vector<LevelShape>& level_shapes) const;

  // The pyramid over an image: ceil(image / 2**level) rows and columns per pyramid level.
  Pyramid over_image(std::int64_t height, std::int64_t width) const;

  const std::vector<std::int32_t>& pyramid_levels() const { return pyramid_levels_; }
  std::vector<Stride> strides() const;
  std::vector<std::vector<Box>> cell_anchors() const;

 private:
  bool is_too_many(const std::vector<LevelShape>& level_shapes) const;
  Pyramid over(const std::vector<LevelShape>& level_shapes) const;

  std::vector<std::int32_t> pyramid_levels_;
  Pyramid pyramid_{};  // all but what depends on the grids
};

}  // namespace anchor_ext
