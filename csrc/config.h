// What a user fixes once: strides and cell anchors. With the grids of an image it becomes a Pyramid.
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
  // One stride and one list of cell anchors (around the origin, in pixels) per level.
  Config(const std::vector<Stride>& strides, const std::vector<std::vector<Box>>& cell_anchors);

  std::int32_t num_levels() const { return pyramid_.num_levels; }
  Stride stride(std::int32_t level) const;
  std::vector<Box> cell_anchors(std::int32_t level) const;

  // The pyramid over the given grids, one per level.
  Pyramid over_grids(const std::vector<LevelShape>& level_shapes) const;

  // The pyramid over an image: ceil(image / 2**level) rows and columns for each pyramid level in 0..30.
  Pyramid over_image(const std::vector<std::int32_t>& pyramid_levels, std::int64_t height, std::int64_t width) const;

 private:
  template <typename Subject>
  Pyramid over(const std::vector<LevelShape>& level_shapes, const Subject& subject) const;

  Pyramid pyramid_{};  // all but what depends on the grids
};

std::vector<LevelShape> ceil_level_shapes(const std::vector<std::int32_t>& pyramid_levels, std::int64_t height,
                                          std::int64_t width);

}  // namespace anchor_ext
