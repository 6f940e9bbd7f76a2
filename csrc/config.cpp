#include "config.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace anchor_ext {
namespace {

__extension__ using uint128 = unsigned __int128;
__extension__ using int128 = __int128;

template <typename... Parts>
[[noreturn]] void reject(const Parts&... parts) {
  std::ostringstream message;
  message.precision(17);
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

Divider divider(std::int64_t divisor) {
  const auto d = static_cast<std::uint64_t>(divisor);
  std::uint32_t shift = 0;
  while ((std::uint64_t{1} << shift) < d) ++shift;
  return {static_cast<std::uint64_t>(((uint128{1} << (63 + shift)) + d - 1) / d), shift};
}

bool is_finite(const Box& box) {
  return std::isfinite(box.x1) && std::isfinite(box.y1) && std::isfinite(box.x2) && std::isfinite(box.y2);
}

}  // namespace

Config::Config(const std::vector<Stride>& strides, const std::vector<std::vector<Box>>& cell_anchors,
               std::vector<std::int32_t> pyramid_levels)
    : pyramid_levels_(std::move(pyramid_levels)) {
  if (strides.empty() || strides.size() > static_cast<std::size_t>(kMaxLevels))
    reject("strides has ", strides.size(), " levels; expected 1 to ", kMaxLevels);
  if (cell_anchors.size() != strides.size())
    reject("cell_anchors has ", cell_anchors.size(), " levels; expected ", strides.size(), ", as many as strides");
  if (!pyramid_levels_.empty() && pyramid_levels_.size() != strides.size())
    reject("pyramid_levels has ", pyramid_levels_.size(), " levels; expected ", strides.size(), ", as many as strides");
  for (const std::int32_t level : pyramid_levels_)
    if (level < 0 || level > 30) reject("pyramid_levels has ", level, "; expected levels in 0..30");

  std::size_t total = 0;
  for (const auto& of_level : cell_anchors) total += of_level.size();
  if (total > static_cast<std::size_t>(kMaxCellAnchors))
    reject("cell_anchors has ", total, " cell anchors over all levels; expected at most ", kMaxCellAnchors);

  pyramid_.num_levels = static_cast<std::int32_t>(strides.size());
  std::int32_t first = 0;
  for (std::size_t l = 0; l < strides.size(); ++l) {
    const Stride stride = strides[l];
    if (!(std::isfinite(stride.y) && std::isfinite(stride.x) && stride.y > 0 && stride.x > 0))
      reject("strides[", l, "] is (", stride.y, ", ", stride.x, "); expected finite numbers > 0");
    if (cell_anchors[l].empty()) reject("cell_anchors[", l, "] is empty; expected at least one cell anchor");
    for (std::size_t a = 0; a < cell_anchors[l].size(); ++a) {
      const Box& box = cell_anchors[l][a];
      if (!is_finite(box))
        reject("cell_anchors[", l, "][", a, "] is (", box.x1, ", ", box.y1, ", ", box.x2, ", ", box.y2,
               "); expected finite numbers");
      pyramid_.cell_anchors[first + static_cast<std::int32_t>(a)] = box;
    }
    Level& level = pyramid_.levels[l];
    level.stride_y = stride.y;
    level.stride_x = stride.x;
    level.num_cell_anchors = static_cast<std::int32_t>(cell_anchors[l].size());
    level.first_cell_anchor = first;
    level.by_cell_anchors = divider(level.num_cell_anchors);
    first += level.num_cell_anchors;
  }
}

std::vector<Stride> Config::strides() const {
  std::vector<Stride> strides;
  for (std::int32_t l = 0; l < pyramid_.num_levels; ++l)
    strides.push_back({pyramid_.levels[l].stride_y, pyramid_.levels[l].stride_x});
  return strides;
}

std::vector<std::vector<Box>> Config::cell_anchors() const {
  std::vector<std::vector<Box>> cell_anchors;
  for (std::int32_t l = 0; l < pyramid_.num_levels; ++l) {
    const Box* first = pyramid_.cell_anchors + pyramid_.levels[l].first_cell_anchor;
    cell_anchors.emplace_back(first, first + pyramid_.levels[l].num_cell_anchors);
  }
  return cell_anchors;
}

Pyramid Config::over_grids(const std::vector<LevelShape>& level_shapes) const {
  if (level_shapes.size() != static_cast<std::size_t>(pyramid_.num_levels))
    reject("level_shapes has ", level_shapes.size(), " levels; expected ", pyramid_.num_levels);
  for (std::size_t l = 0; l < level_shapes.size(); ++l) {
    const auto [rows, columns] = level_shapes[l];
    if (rows < 1 || columns < 1 || rows > kMaxSide || columns > kMaxSide)
      reject("level_shapes[", l, "] is (", rows, ", ", columns, "); expected rows and columns in 1..2**31 - 1");
  }
  if (is_too_many(level_shapes)) {
    std::ostringstream value;
    for (const auto [rows, columns] : level_shapes) value << "(" << rows << ", " << columns << "), ";
    reject("level_shapes is [", value.str(), "]; expected at most 2**58 - 1 anchors in all");
  }
  return over(level_shapes);
}

Pyramid Config::over_image(std::int64_t height, std::int64_t width) const {
  if (pyramid_levels_.empty()) reject("pyramid_levels is empty; expected levels to derive grids from");
  if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide)
    reject("image_shape is (", height, ", ", width, "); expected a height and a width in 1..2**31 - 1");
  std::vector<LevelShape> level_shapes;
  level_shapes.reserve(pyramid_levels_.size());
  for (const std::int32_t level : pyramid_levels_) {
    const std::int64_t below = (std::int64_t{1} << level) - 1;
    level_shapes.push_back({(height + below) >> level, (width + below) >> level});
  }
  if (is_too_many(level_shapes))
    reject("image_shape is (", height, ", ", width, "); expected at most 2**58 - 1 anchors in all");
  return over(level_shapes);
}

bool Config::is_too_many(const std::vector<LevelShape>& level_shapes) const {
  int128 total = 0;
  for (std::int32_t l = 0; l < pyramid_.num_levels; ++l)
    total += static_cast<int128>(level_shapes[l].rows) * level_shapes[l].columns * pyramid_.levels[l].num_cell_anchors;
  return total > kMaxAnchors;
}

Pyramid Config::over(const std::vector<LevelShape>& level_shapes) const {
  Pyramid pyramid;
  pyramid.num_levels = pyramid_.num_levels;
  pyramid.num_anchors = 0;
  for (std::int32_t l = 0; l < pyramid_.num_levels; ++l) {
    Level& level = pyramid.levels[l];
    level = pyramid_.levels[l];
    level.begin = pyramid.num_anchors;
    level.rows = level_shapes[l].rows;
    level.columns = level_shapes[l].columns;
    level.by_columns = divider(level.columns);
    pyramid.num_anchors += level.rows * level.columns * level.num_cell_anchors;
  }
  // Only what is used: a pyramid is made for every call.
  const Level& last = pyramid.levels[pyramid.num_levels - 1];
  std::copy_n(pyramid_.cell_anchors, last.first_cell_anchor + last.num_cell_anchors, pyramid.cell_anchors);
  return pyramid;
}

}  // namespace anchor_ext
