#include "anchors/predicate.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/spec.h"

namespace anchor_ext {
AnchorPredicate valid_predicate(const Spec& spec, const Pyramid& pyramid, const Request& request,
                                ImageShape padded_shape) {
  check_shape("padded_shape", padded_shape, 0);
  const ImageShape image = request.image_shape.value_or(ImageShape{1, 1});
  const auto cells = [&](std::int64_t padded, double given, std::int64_t side, std::int64_t most) {
    if (most == 0) return most;
    if (given > 0) {  // as float64, before any conversion to an integer: a stride may be tiny
      const double covered = std::ceil(static_cast<double>(padded) / given);
      return covered < static_cast<double>(most) ? static_cast<std::int64_t>(covered) : most;
    }
    __extension__ using int128 = __int128;
    // side / most where boxes are scaled, else rounded down: exact in integers.
    const int128 stride = pyramid.scaled ? side : side / most, cells_per_stride = pyramid.scaled ? most : 1;
    if (stride == 0) return most;
    return static_cast<std::int64_t>(
        std::min<int128>((padded * cells_per_stride + stride - 1) / stride, static_cast<int128>(most)));
  };
  AnchorPredicate predicate{};
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l) {
    const Level& level = pyramid.levels[l];
    const Pair given = spec.given_stride(l);
    predicate.valid[l] = {cells(padded_shape.height, given.y, image.height, level.y.cells),
                          cells(padded_shape.width, given.x, image.width, level.x.cells)};
  }
  return predicate;
}

AnchorPredicate inside_predicate(const Pyramid& pyramid, ImageShape image_shape, double border, Dtype dtype) {
  check_shape("image_shape", image_shape, 1);
  if (!(border > -std::numeric_limits<double>::infinity())) reject("border is ", border, "; expected a number or inf");
  AnchorPredicate predicate{};
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l)
    predicate.valid[l] = {pyramid.levels[l].y.cells, pyramid.levels[l].x.cells};
  predicate.of_components = true;
  predicate.dtype = dtype;
  predicate.low = nearest(-border, dtype);
  predicate.high_y = nearest(static_cast<double>(image_shape.height) + border, dtype);
  predicate.high_x = nearest(static_cast<double>(image_shape.width) + border, dtype);
  return predicate;
}

}  // namespace anchor_ext
