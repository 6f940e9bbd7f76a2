#include "core/spec.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <mutex>
#include <utility>

namespace anchor_ext {
namespace {

__extension__ using uint128 = unsigned __int128;
__extension__ using int128 = __int128;

// A Python number as torch's CPU operators take it beside a tensor: a summand in the tensor's type, a factor of a
// 16-bit tensor in float32.
double summand(double value, const Arithmetic& arithmetic) {
  return arithmetic.grid == Grid::arange ? value : rounded(value, arithmetic.position);
}
double factor(double value, const Arithmetic& arithmetic) {
  if (arithmetic.grid == Grid::arange || arithmetic.position == Dtype::float64) return value;
  return narrowed(value);
}

void check_pairs(const char* name, const std::vector<Pair>& pairs, std::size_t levels, bool positive) {
  if (!pairs.empty() && pairs.size() != levels)
    reject(name, " has ", pairs.size(), " levels; expected ", levels, ", as many as cell_anchors");
  for (std::size_t l = 0; l < pairs.size(); ++l) {
    const auto [y, x] = pairs[l];
    const bool good = std::isfinite(y) && std::isfinite(x) && (!positive || (y > 0 && x > 0));
    if (!good) reject(name, "[", l, "] is (", y, ", ", x, "); expected finite numbers", positive ? " > 0" : "");
  }
}

void check(const SpecParts& parts, int components) {
  const std::size_t levels = parts.cell_anchors.size();
  if (!parts.pyramid_levels.empty()) check_pyramid_levels(parts.pyramid_levels);
  if (levels == 0 || levels > static_cast<std::size_t>(kMaxLevels))
    reject("cell_anchors has ", levels, " levels; expected 1 to ", kMaxLevels);
  check_pairs("strides", parts.strides, levels, true);
  check_pairs("offset", parts.offsets, levels, false);
  check_pairs("start", parts.starts, levels, false);
  if (!parts.pyramid_levels.empty() && parts.pyramid_levels.size() != levels)
    reject("pyramid_levels has ", parts.pyramid_levels.size(), " levels; expected ", levels,
           ", as many as cell_anchors");

  std::size_t total = 0;
  for (std::size_t l = 0; l < levels; ++l) {
    const std::vector<double>& numbers = parts.cell_anchors[l];
    if (numbers.empty() || numbers.size() % components != 0)
      reject("cell_anchors[", l, "] has ", numbers.size(), " numbers; expected ", components, " per cell anchor");
    for (std::size_t i = 0; i < numbers.size(); ++i)
      if (!std::isfinite(numbers[i]))
        reject("cell_anchors[", l, "][", i / components, "][", i % components, "] is ", numbers[i],
               "; expected a finite number");
    total += numbers.size() / components;
  }
  if (total > static_cast<std::size_t>(kMaxCellAnchors))
    reject("cell_anchors has ", total, " cell anchors over all levels; expected at most ", kMaxCellAnchors);
}

}  // namespace

Divider divider_of(std::int64_t divisor) {
  const auto d = static_cast<std::uint64_t>(std::max<std::int64_t>(divisor, 1));
  std::uint32_t shift = 0;
  while ((std::uint64_t{1} << shift) < d) ++shift;
  return {static_cast<std::uint64_t>(((uint128{1} << (63 + shift)) + d - 1) / d), shift};
}

void check_pyramid_levels(const std::vector<std::int64_t>& levels) {
  for (std::size_t i = 0; i < levels.size(); ++i) {
    if (levels[i] < 0 || levels[i] > 30)
      reject("pyramid_levels[", i, "] is ", levels[i], "; expected an integer in 0..30");
    if (std::count(levels.begin(), levels.end(), levels[i]) > 1) {
      std::string value;
      for (const std::int64_t level : levels) value += (value.empty() ? "" : ", ") + std::to_string(level);
      reject("pyramid_levels is [", value, "]; expected distinct levels");
    }
  }
  if (levels.size() > static_cast<std::size_t>(kMaxLevels))
    reject("pyramid_levels has ", levels.size(), " levels; expected at most ", kMaxLevels);
}

void check_shape(const char* name, ImageShape shape, std::int64_t least) {
  if (shape.height < least || shape.width < least || shape.height > kMaxSide || shape.width > kMaxSide)
    reject(name, " is (", shape.height, ", ", shape.width, "); expected a height and a width in ", least,
           "..2**31 - 1");
}

Spec::Spec(std::string_view text) : Spec(parts_of(text), std::string(text)) {}

Spec::Spec(SpecParts parts) : Spec(std::move(parts), {}) { text_ = text_of(parts_); }

Spec::Spec(SpecParts parts, std::string text) : parts_(std::move(parts)), text_(std::move(text)) {
  const Arithmetic arithmetic = pyramid_.arithmetic = arithmetic_of(parts_.arithmetic);
  pyramid_.layout = layout_of(parts_.layout);
  const int components = pyramid_.layout.components;
  anchor_ext::check(parts_, components);
  pyramid_.scaled = arithmetic.grid == Grid::quotient;
  pyramid_.plain = parts_.layout == "xyxy" && arithmetic.grid == Grid::product &&
                   arithmetic.position == Dtype::float64 && arithmetic.centre == Dtype::float64 &&
                   arithmetic.sum == Dtype::float64;

  pyramid_.num_levels = static_cast<std::int32_t>(parts_.cell_anchors.size());
  std::int32_t first = 0;
  for (std::int32_t l = 0; l < pyramid_.num_levels; ++l) {
    const std::vector<double>& numbers = parts_.cell_anchors[l];
    Level& level = pyramid_.levels[l];
    level.num_cell_anchors = static_cast<std::int32_t>(numbers.size()) / components;
    level.first_cell_anchor = first;
    level.by_cell_anchors = divider_of(level.num_cell_anchors);
    std::transform(numbers.begin(), numbers.end(), pyramid_.cell_anchors + first * components,
                   [&](double number) { return rounded(number, arithmetic.sum); });
    first += level.num_cell_anchors;

    const Pair offset = parts_.offsets.empty() ? Pair{0.5, 0.5} : parts_.offsets[l];
    const Pair start = parts_.starts.empty() ? Pair{0, 0} : parts_.starts[l];
    level.y.offset = summand(offset.y, arithmetic);
    level.x.offset = summand(offset.x, arithmetic);
    level.y.start = summand(start.y, arithmetic);
    level.x.start = summand(start.x, arithmetic);
    pyramid_.plain = pyramid_.plain && start.y == 0 && start.x == 0;
  }
}

std::int64_t Spec::check(const Request& request, LevelShape (&shapes)[kMaxLevels]) const {
  if (request.image_shape) {
    check_shape("image_shape", *request.image_shape, 1);
  } else if (pyramid_.scaled || parts_.strides.empty()) {
    reject("image_shape is None; expected (height, width), which ",
           pyramid_.scaled ? "arithmetic quotient" : "strides=None", " needs");
  }
  if (request.clip) {
    check_shape("clip", *request.clip, 1);
    if (parts_.layout == "cxcywha")
      reject("clip is (", request.clip->height, ", ", request.clip->width,
             "); expected None for layout cxcywha, whose boxes are turned");
  }
  const bool is_derived = request.level_shapes.empty() && !parts_.pyramid_levels.empty();
  if (is_derived) {
    if (!request.image_shape) reject("image_shape is None; expected (height, width), which the grids are derived from");
    for (std::int32_t l = 0; l < pyramid_.num_levels; ++l) {
      const std::int64_t level = parts_.pyramid_levels[l], below = (std::int64_t{1} << level) - 1;
      shapes[l] = {(request.image_shape->height + below) >> level, (request.image_shape->width + below) >> level};
    }
  } else {
    if (request.level_shapes.size() != static_cast<std::size_t>(pyramid_.num_levels))
      reject("level_shapes has ", request.level_shapes.size(), " levels; expected ", pyramid_.num_levels);
    for (std::int32_t l = 0; l < pyramid_.num_levels; ++l) {
      const auto [rows, columns] = shapes[l] = request.level_shapes[l];
      if (rows < 0 || columns < 0 || rows > kMaxSide || columns > kMaxSide)
        reject("level_shapes[", l, "] is (", rows, ", ", columns, "); expected rows and columns in 0..2**31 - 1");
    }
  }
  int128 total = 0;
  for (std::int32_t l = 0; l < pyramid_.num_levels; ++l)
    total += static_cast<int128>(shapes[l].rows) * shapes[l].columns * pyramid_.levels[l].num_cell_anchors;
  if (total > kMaxAnchors || total * pyramid_.layout.components > kMaxNumbers) {
    const char* const most = pyramid_.layout.components > 4 ? "2**60 / 5" : "2**58 - 1";
    std::ostringstream value;
    if (is_derived)
      value << "image_shape is (" << request.image_shape->height << ", " << request.image_shape->width << ")";
    else
      value << "level_shapes is [";
    for (std::size_t l = 0; l < request.level_shapes.size(); ++l)
      value << "(" << shapes[l].rows << ", " << shapes[l].columns
            << (l + 1 < request.level_shapes.size() ? "), " : ")]");
    reject(value.str(), "; expected at most ", most, " anchors in all");
  }
  return static_cast<std::int64_t>(total);
}

std::int64_t Spec::num_anchors(const Request& request) const {
  LevelShape shapes[kMaxLevels];
  return check(request, shapes);
}

Pyramid Spec::over(const Request& request) const {
  LevelShape shapes[kMaxLevels];
  check(request, shapes);
  const ImageShape image = request.image_shape.value_or(ImageShape{0, 0});
  const ImageShape limit = request.clip.value_or(ImageShape{0, 0});
  // A level's stride along one axis, from the one that was given (0: none) and from the image.
  const auto stride = [&](double given, std::int64_t side, std::int64_t cells) {
    double stride = given;
    if (pyramid_.arithmetic.grid == Grid::quotient)
      stride = given > 0 ? static_cast<double>(side) / given : static_cast<double>(cells);
    else if (given == 0)
      stride = static_cast<double>(side / std::max<std::int64_t>(cells, 1));
    return factor(stride, pyramid_.arithmetic);
  };

  Pyramid pyramid;
  pyramid.num_anchors = 0;
  pyramid.num_levels = pyramid_.num_levels;
  pyramid.layout = pyramid_.layout;
  pyramid.arithmetic = pyramid_.arithmetic;
  pyramid.scaled = pyramid_.scaled;
  pyramid.clipped = request.clip.has_value();
  pyramid.plain = pyramid_.plain && !pyramid.clipped;
  pyramid.image_y = rounded(static_cast<double>(image.height), pyramid.arithmetic.sum);
  pyramid.image_x = rounded(static_cast<double>(image.width), pyramid.arithmetic.sum);
  pyramid.limit_y = static_cast<double>(limit.height);
  pyramid.limit_x = static_cast<double>(limit.width);
  for (std::int32_t l = 0; l < pyramid_.num_levels; ++l) {
    Level& level = pyramid.levels[l];
    level = pyramid_.levels[l];
    const Pair given = given_stride(l);
    level.begin = pyramid.num_anchors;
    level.y.cells = shapes[l].rows;
    level.x.cells = shapes[l].columns;
    level.y.stride = stride(given.y, image.height, level.y.cells);
    level.x.stride = stride(given.x, image.width, level.x.cells);
    level.by_columns = divider_of(level.x.cells);
    pyramid.num_anchors += level.y.cells * level.x.cells * level.num_cell_anchors;
  }
  // Only what is used: a pyramid is made for nearly every call.
  const Level& last = pyramid.levels[pyramid.num_levels - 1];
  std::copy_n(pyramid_.cell_anchors, (last.first_cell_anchor + last.num_cell_anchors) * pyramid.layout.components,
              pyramid.cell_anchors);
  return pyramid;
}

std::shared_ptr<const Spec> spec_of(std::string_view text) {
  static std::mutex mutex;
  static std::shared_ptr<const Spec> recent[8];  // the last one first
  {
    const std::lock_guard<std::mutex> lock(mutex);
    for (auto* kept = std::begin(recent); kept != std::end(recent) && *kept != nullptr; ++kept)
      if ((*kept)->text() == text) {
        std::rotate(std::begin(recent), kept, kept + 1);
        return recent[0];
      }
  }
  auto made = std::make_shared<const Spec>(text);
  const std::lock_guard<std::mutex> lock(mutex);
  std::move_backward(std::begin(recent), std::end(recent) - 1, std::end(recent));
  return recent[0] = std::move(made);
}

ImageShape image_shape_of(const char* name, const std::vector<std::int64_t>& sides) {
  if (sides.size() != 2) reject(name, ": expected two numbers, height and width");
  return {sides[0], sides[1]};
}

Request request_of(const Sides& level_shapes, const Sides& image_shape, const Sides& clip) {
  const std::size_t count = level_shapes ? level_shapes->size() : 0;
  if (count % 2 != 0) reject("level_shapes: expected two numbers, rows and columns, per level");
  Request request;
  for (std::size_t i = 0; i < count; i += 2)
    request.level_shapes.push_back({(*level_shapes)[i], (*level_shapes)[i + 1]});
  if (image_shape) request.image_shape = image_shape_of("image_shape", *image_shape);
  if (clip) request.clip = image_shape_of("clip", *clip);
  return request;
}

}  // namespace anchor_ext
