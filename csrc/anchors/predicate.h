// What can be asked of every anchor, answered by a flag each: plain data and host/device functions, as in pyramid.h.
#pragma once

#include <cstdint>

#include "core/pyramid.h"

namespace anchor_ext {

class Spec;
struct ImageShape;
struct Request;

// Is the cell among the first `valid` rows and columns of its level? And, where `of_components`, are the anchor's
// components within the bounds, after rounding to `dtype`?
struct AnchorPredicate {
  struct {
    std::int64_t rows, columns;
  } valid[kMaxLevels];
  bool of_components;
  Dtype dtype;
  double low, high_y, high_x;  // low <= component, component < high, for those that are bounds
};
static_assert(sizeof(Pyramid) + sizeof(AnchorPredicate) + 128 <= 32764, "both must fit a kernel's parameters");

// Whether a cell's first pixel lies on an image of the padded shape: of rows and columns, ceil(side / stride). Strides
// that were not given follow from the request's image.
AnchorPredicate valid_predicate(const Spec& spec, const Pyramid& pyramid, const Request& request,
                                ImageShape padded_shape);

// Whether an anchor, rounded to dtype, lies within an image of this shape and `border` pixels around it.
AnchorPredicate inside_predicate(const Pyramid& pyramid, ImageShape image_shape, double border, Dtype dtype);

// Of those components of a cell anchor that move along one axis, with the cell's centre on that axis.
ANCHOR_EXT_HD bool is_within(const Pyramid& pyramid, const AnchorPredicate& predicate, const double* cell_anchor,
                             std::uint8_t axis, double centre) {
  bool within = true;
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int k = 0; k < kMaxComponents; ++k) {
    if (!(axis >> k & 1)) continue;
    const double value = nearest(component<false>(pyramid, cell_anchor[k], k, centre, centre), predicate.dtype);
    const double high = axis == pyramid.layout.along_x ? predicate.high_x : predicate.high_y;
    within = within && (!(pyramid.layout.low >> k & 1) || value >= predicate.low);
    within = within && (!(pyramid.layout.high >> k & 1) || value < high);
  }
  return within;
}

// The whole answer of one anchor.
ANCHOR_EXT_HD bool flag_at(const Pyramid& pyramid, const AnchorPredicate& predicate, std::int64_t flat_index) {
  const Position at = locate(pyramid, flat_index);
  const Level& level = pyramid.levels[at.level];
  if (at.row >= predicate.valid[at.level].rows || at.column >= predicate.valid[at.level].columns) return false;
  if (!predicate.of_components) return true;
  const double* const cell_anchor = cell_anchor_at(pyramid, level, at.cell_anchor);
  return is_within(pyramid, predicate, cell_anchor, pyramid.layout.along_x,
                   centre<false>(pyramid.arithmetic, level.x, at.column)) &&
         is_within(pyramid, predicate, cell_anchor, pyramid.layout.along_y,
                   centre<false>(pyramid.arithmetic, level.y, at.row));
}

}  // namespace anchor_ext
