// What can be asked of every anchor, answered by a flag each: plain data and host/device functions, as in pyramid.h.
#pragma once

#include <cstdint>

#include "pyramid.h"

namespace anchor_ext {

// Is the cell among the first `valid` rows and columns of its level? And, where `of_components`, are the anchor's
// components within the bounds, after rounding to `dtype`?
struct Question {
  struct {
    std::int64_t rows, columns;
  } valid[kMaxLevels];
  bool of_components;
  Dtype dtype;
  double low, high_y, high_x;  // low <= component, component < high, for those that are bounds
};
static_assert(sizeof(Pyramid) + sizeof(Question) + 128 <= 32764, "both must fit a kernel's parameters");

// Of those components of a cell anchor that move along one axis, with the cell's centre on that axis.
ANCHOR_EXT_HD bool is_within(const Pyramid& pyramid, const Question& question, const double* cell_anchor,
                             std::uint8_t axis, double centre) {
  if (!question.of_components) return true;
  bool within = true;
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int k = 0; k < kMaxComponents; ++k) {
    if (!(axis >> k & 1)) continue;
    const double value = nearest(component<false>(pyramid, cell_anchor[k], k, centre, centre), question.dtype);
    const double high = axis == pyramid.layout.along_x ? question.high_x : question.high_y;
    within = within && (!(pyramid.layout.low >> k & 1) || value >= question.low);
    within = within && (!(pyramid.layout.high >> k & 1) || value < high);
  }
  return within;
}

ANCHOR_EXT_HD bool flag_of_column(const Pyramid& pyramid, const Question& question, std::int32_t level,
                                  const double* cell_anchor, std::int64_t column) {
  const double x = centre<false>(pyramid.arithmetic, pyramid.levels[level].x, column);
  return column < question.valid[level].columns && is_within(pyramid, question, cell_anchor, pyramid.layout.along_x, x);
}

ANCHOR_EXT_HD bool flag_of_row(const Pyramid& pyramid, const Question& question, std::int32_t level,
                               const double* cell_anchor, std::int64_t row) {
  const double y = centre<false>(pyramid.arithmetic, pyramid.levels[level].y, row);
  return row < question.valid[level].rows && is_within(pyramid, question, cell_anchor, pyramid.layout.along_y, y);
}

// The whole answer of one anchor.
ANCHOR_EXT_HD bool flag_at(const Pyramid& pyramid, const Question& question, std::int64_t flat_index) {
  const Position at = locate(pyramid, flat_index);
  const double* const cell_anchor = cell_anchor_at(pyramid, pyramid.levels[at.level], at.cell_anchor);
  return flag_of_column(pyramid, question, at.level, cell_anchor, at.column) &&
         flag_of_row(pyramid, question, at.level, cell_anchor, at.row);
}

}  // namespace anchor_ext
