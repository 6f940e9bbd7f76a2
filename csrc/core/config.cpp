#include "core/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
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
  const auto d = static_cast<std::uint64_t>(std::max<std::int64_t>(divisor, 1));  // of a grid without cells, by which
                                                                                  // nothing is divided
  std::uint32_t shift = 0;
  while ((std::uint64_t{1} << shift) < d) ++shift;
  return {static_cast<std::uint64_t>(((uint128{1} << (63 + shift)) + d - 1) / d), shift};
}

constexpr struct {
  const char* name;
  Dtype dtype;
} kDtypes[] = {{"float64", Dtype::float64},
               {"float32", Dtype::float32},
               {"float16", Dtype::float16},
               {"bfloat16", Dtype::bfloat16}};

constexpr struct {
  const char* name;
  Layout layout;
} kLayouts[] = {
    {"xyxy", kXyxy}, {"yxyx", kYxyx}, {"cxcywha", kCxcywha}, {"point", kPoint}, {"point_stride", kPointStride}};

// A Python number as torch's CPU operators take it beside a tensor: a summand in the tensor's type, a factor of a
// 16-bit tensor in float32.
double summand(double value, const Arithmetic& arithmetic) {
  return arithmetic.grid == Grid::arange ? value : rounded(value, arithmetic.position);
}
double factor(double value, const Arithmetic& arithmetic) {
  if (arithmetic.grid == Grid::arange || arithmetic.position == Dtype::float64) return value;
  return narrowed(value);
}

void check(const char* name, ImageShape shape, std::int64_t least = 1) {
  if (shape.height < least || shape.width < least || shape.height > kMaxSide || shape.width > kMaxSide)
    reject(name, " is (", shape.height, ", ", shape.width, "); expected a height and a width in ", least,
           "..2**31 - 1");
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

void check(const ConfigArguments& arguments, int components) {
  const std::size_t levels = arguments.cell_anchors.size();
  if (levels == 0 || levels > static_cast<std::size_t>(kMaxLevels))
    reject("cell_anchors has ", levels, " levels; expected 1 to ", kMaxLevels);
  check_pairs("strides", arguments.strides, levels, true);
  check_pairs("offset", arguments.offsets, levels, false);
  check_pairs("start", arguments.starts, levels, false);
  if (!arguments.pyramid_levels.empty() && arguments.pyramid_levels.size() != levels)
    reject("pyramid_levels has ", arguments.pyramid_levels.size(), " levels; expected ", levels,
           ", as many as cell_anchors");
  for (const std::int32_t level : arguments.pyramid_levels)
    if (level < 0 || level > 30) reject("pyramid_levels has ", level, "; expected levels in 0..30");

  std::size_t total = 0;
  for (std::size_t l = 0; l < levels; ++l) {
    const std::vector<double>& numbers = arguments.cell_anchors[l];
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

std::vector<Pair> pairs_of(const char* name, const Numbers& given) {
  if (!given) return {};
  const std::vector<double>& numbers = *given;
  if (numbers.size() % 2 != 0) reject(name, ": expected two numbers (y, x) per level");
  std::vector<Pair> pairs;
  for (std::size_t i = 0; i < numbers.size(); i += 2) pairs.push_back({numbers[i], numbers[i + 1]});
  return pairs;
}

}  // namespace

Dtype dtype_of(const std::string& name) {
  for (const auto& entry : kDtypes)
    if (name == entry.name) return entry.dtype;
  reject("dtype is '", name, "'; expected float32, float64, float16 or bfloat16");
}

Arithmetic arithmetic_of(const std::string& name) {
  std::array<std::string, 3> parts;
  std::istringstream stream(name);
  std::size_t count = 0;
  for (std::string part; std::getline(stream, part, '/'); ++count)
    if (count < parts.size()) parts[count] = part;

  Arithmetic arithmetic{Grid::product, Dtype::float32, Dtype::float32, Dtype::float32};
  const bool is_quotient = parts[0] == "quotient", is_arange = parts[0] == "arange";
  const auto read = [](const std::string& part, Dtype& dtype) {
    const auto* const found =
        std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const auto& entry) { return part == entry.name; });
    if (found != std::end(kDtypes)) dtype = found->dtype;
    return found != std::end(kDtypes);
  };
  if (!name.empty() && name.back() == '/') count = 0;  // the last part is empty, which getline does not say
  bool good = is_quotient || is_arange || read(parts[0], arithmetic.position);
  if (is_quotient) arithmetic.grid = Grid::quotient;
  if (is_arange) arithmetic.grid = Grid::arange;
  if (count == 1)
    arithmetic.centre = arithmetic.sum = arithmetic.position;
  else
    good = good && count == 3 && read(parts[1], arithmetic.centre) && read(parts[2], arithmetic.sum);
  if (!good)
    reject("arithmetic is '", name,
           "'; expected float64, float32, float16, bfloat16, arange or quotient, or position/centre/sum of them");
  return arithmetic;
}

Layout layout_of(const std::string& name) {
  for (const auto& entry : kLayouts)
    if (name == entry.name) return entry.layout;
  reject("layout is '", name, "'; expected xyxy, yxyx, cxcywha, point or point_stride");
}

Config::Config(ConfigArguments arguments) : arguments_(std::move(arguments)) {
  const Arithmetic arithmetic = pyramid_.arithmetic = arithmetic_of(arguments_.arithmetic);
  pyramid_.layout = layout_of(arguments_.layout);
  const int components = pyramid_.layout.components;
  check(arguments_, components);
  pyramid_.scaled = arithmetic.grid == Grid::quotient;
  pyramid_.plain = arguments_.layout == "xyxy" && arithmetic.grid == Grid::product &&
                   arithmetic.position == Dtype::float64 && arithmetic.centre == Dtype::float64 &&
                   arithmetic.sum == Dtype::float64;

  pyramid_.num_levels = static_cast<std::int32_t>(arguments_.cell_anchors.size());
  std::int32_t first = 0;
  for (std::int32_t l = 0; l < pyramid_.num_levels; ++l) {
    const std::vector<double>& numbers = arguments_.cell_anchors[l];
    Level& level = pyramid_.levels[l];
    level.num_cell_anchors = static_cast<std::int32_t>(numbers.size()) / components;
    level.first_cell_anchor = first;
    level.by_cell_anchors = divider(level.num_cell_anchors);
    std::transform(numbers.begin(), numbers.end(), pyramid_.cell_anchors + first * components,
                   [&](double number) { return rounded(number, arithmetic.sum); });
    first += level.num_cell_anchors;

    const Pair offset = arguments_.offsets.empty() ? Pair{0.5, 0.5} : arguments_.offsets[l];
    const Pair start = arguments_.starts.empty() ? Pair{0, 0} : arguments_.starts[l];
    level.y.offset = summand(offset.y, arithmetic);
    level.x.offset = summand(offset.x, arithmetic);
    level.y.start = summand(start.y, arithmetic);
    level.x.start = summand(start.x, arithmetic);
    pyramid_.plain = pyramid_.plain && start.y == 0 && start.x == 0;
  }
}

std::size_t Config::level_shapes(const Request& request, LevelShape (&level_shapes)[kMaxLevels]) const {
  const std::size_t count = request.level_shapes.size();
  if (arguments_.pyramid_levels.empty()) {
    std::copy_n(request.level_shapes.begin(), std::min(count, static_cast<std::size_t>(kMaxLevels)), level_shapes);
    return count;
  }
  if (!request.image_shape) reject("image_shape is None; expected (height, width), which the grids are derived from");
  const auto [height, width] = *request.image_shape;
  LevelShape* shape = level_shapes;
  for (const std::int32_t level : arguments_.pyramid_levels) {
    const std::int64_t below = (std::int64_t{1} << level) - 1;
    *shape++ = {(height + below) >> level, (width + below) >> level};
  }
  return arguments_.pyramid_levels.size();
}

bool Config::is_too_many(const LevelShape* level_shapes) const {
  int128 total = 0;
  for (std::int32_t l = 0; l < pyramid_.num_levels; ++l)
    total += static_cast<int128>(level_shapes[l].rows) * level_shapes[l].columns * pyramid_.levels[l].num_cell_anchors;
  return total > kMaxAnchors || total * pyramid_.layout.components > kMaxNumbers;
}

// A level's stride along one axis, from the one that was given (0: none) and from the image.
double Config::stride(double given, std::int64_t image, std::int64_t cells) const {
  double stride = given;
  if (pyramid_.arithmetic.grid == Grid::quotient)
    stride = given > 0 ? static_cast<double>(image) / given : static_cast<double>(cells);
  else if (given == 0)
    stride = static_cast<double>(image / std::max<std::int64_t>(cells, 1));
  return factor(stride, pyramid_.arithmetic);
}

Pyramid Config::over(const Request& request) const {
  ImageShape image{0, 0};
  if (request.image_shape) {
    image = *request.image_shape;
    check("image_shape", image);
  } else if (pyramid_.scaled || arguments_.strides.empty()) {
    reject("image_shape is None; expected (height, width), which ",
           pyramid_.scaled ? "arithmetic quotient" : "strides=None", " needs");
  }
  ImageShape limit{0, 0};
  if (request.clip) {
    limit = *request.clip;
    check("clip", limit);
    if (arguments_.layout == "cxcywha")
      reject("clip is (", limit.height, ", ", limit.width,
             "); expected None for layout cxcywha, whose boxes are turned");
  }

  LevelShape shapes[kMaxLevels];
  const std::size_t levels = level_shapes(request, shapes);
  if (levels != static_cast<std::size_t>(pyramid_.num_levels))
    reject("level_shapes has ", levels, " levels; expected ", pyramid_.num_levels);
  for (std::size_t l = 0; l < levels; ++l) {
    const auto [rows, columns] = shapes[l];
    if (rows < 0 || columns < 0 || rows > kMaxSide || columns > kMaxSide)
      reject("level_shapes[", l, "] is (", rows, ", ", columns, "); expected rows and columns in 0..2**31 - 1");
  }
  if (is_too_many(shapes)) {
    const char* const most = pyramid_.layout.components > 4 ? "2**60 / 5" : "2**58 - 1";
    if (!arguments_.pyramid_levels.empty())
      reject("image_shape is (", image.height, ", ", image.width, "); expected at most ", most, " anchors in all");
    std::ostringstream value;
    for (std::size_t l = 0; l < levels; ++l) value << "(" << shapes[l].rows << ", " << shapes[l].columns << "), ";
    reject("level_shapes is [", value.str(), "]; expected at most ", most, " anchors in all");
  }

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
    const Pair given = arguments_.strides.empty() ? Pair{0, 0} : arguments_.strides[l];
    level.begin = pyramid.num_anchors;
    level.y.cells = shapes[l].rows;
    level.x.cells = shapes[l].columns;
    level.y.stride = stride(given.y, image.height, level.y.cells);
    level.x.stride = stride(given.x, image.width, level.x.cells);
    level.by_columns = divider(level.x.cells);
    pyramid.num_anchors += level.y.cells * level.x.cells * level.num_cell_anchors;
  }
  // Only what is used: a pyramid is made for nearly every call.
  const Level& last = pyramid.levels[pyramid.num_levels - 1];
  std::copy_n(pyramid_.cell_anchors, (last.first_cell_anchor + last.num_cell_anchors) * pyramid.layout.components,
              pyramid.cell_anchors);
  return pyramid;
}

Question Config::valid(const Pyramid& pyramid, const Request& request, ImageShape padded_shape) const {
  check("padded_shape", padded_shape, 0);
  const ImageShape image = request.image_shape.value_or(ImageShape{1, 1});
  const auto cells = [&](std::int64_t padded, double given, std::int64_t side, std::int64_t most) {
    if (given > 0) {  // as float64, before any conversion to an integer: a stride may be tiny
      const double covered = std::ceil(static_cast<double>(padded) / given);
      return covered < static_cast<double>(most) ? static_cast<std::int64_t>(covered) : most;
    }
    if (most == 0) return most;
    // side / most where boxes are scaled, else rounded down: exact in integers.
    const int128 stride = pyramid.scaled ? side : side / most, cells_per_stride = pyramid.scaled ? most : 1;
    if (stride == 0) return most;
    return static_cast<std::int64_t>(
        std::min<int128>((padded * cells_per_stride + stride - 1) / stride, static_cast<int128>(most)));
  };
  Question question{};
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l) {
    const Level& level = pyramid.levels[l];
    const Pair given = arguments_.strides.empty() ? Pair{0, 0} : arguments_.strides[l];
    question.valid[l] = {cells(padded_shape.height, given.y, image.height, level.y.cells),
                         cells(padded_shape.width, given.x, image.width, level.x.cells)};
  }
  return question;
}

Question Config::inside(const Pyramid& pyramid, ImageShape image_shape, double border, Dtype dtype) const {
  check("image_shape", image_shape);
  if (!std::isfinite(border)) reject("border is ", border, "; expected a finite number");
  Question question{};
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l)
    question.valid[l] = {pyramid.levels[l].y.cells, pyramid.levels[l].x.cells};
  question.of_components = true;
  question.dtype = dtype;
  question.low = nearest(-border, dtype);
  question.high_y = nearest(static_cast<double>(image_shape.height) + border, dtype);
  question.high_x = nearest(static_cast<double>(image_shape.width) + border, dtype);
  return question;
}

Config config_of(const Numbers& strides, const std::vector<double>& cell_anchors,
                 const std::vector<std::int64_t>& num_cell_anchors, const Numbers& offsets, const Numbers& starts,
                 const std::string& arithmetic, const std::string& layout) {
  ConfigArguments arguments;
  arguments.strides = pairs_of("strides", strides);
  arguments.offsets = pairs_of("offsets", offsets);
  arguments.starts = pairs_of("starts", starts);
  arguments.arithmetic = arithmetic;
  arguments.layout = layout;
  const std::int64_t components = layout_of(layout).components;
  auto rest = static_cast<std::int64_t>(cell_anchors.size());
  const double* next = cell_anchors.data();
  for (const std::int64_t count : num_cell_anchors) {
    if (count < 1 || count > rest / components)
      reject("cell_anchors: expected ", components, " numbers per cell anchor that num_cell_anchors counts");
    arguments.cell_anchors.emplace_back(next, next + count * components);
    next += count * components;
    rest -= count * components;
  }
  if (rest != 0) reject("cell_anchors: expected ", components, " numbers per cell anchor that num_cell_anchors counts");
  return Config(std::move(arguments));
}

std::optional<ImageShape> image_shape_of(const char* name, const Sides& shape) {
  if (!shape) return std::nullopt;
  if (shape->size() != 2) reject(name, ": expected two numbers, height and width");
  return ImageShape{(*shape)[0], (*shape)[1]};
}

Request request_of(const std::vector<std::int64_t>& level_shapes, const Sides& image_shape, const Sides& clip) {
  if (level_shapes.size() % 2 != 0) reject("level_shapes: expected two numbers, rows and columns, per level");
  Request request;
  for (std::size_t i = 0; i < level_shapes.size(); i += 2)
    request.level_shapes.push_back({level_shapes[i], level_shapes[i + 1]});
  request.image_shape = image_shape_of("image_shape", image_shape);
  request.clip = image_shape_of("clip", clip);
  return request;
}

}  // namespace anchor_ext
