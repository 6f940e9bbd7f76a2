// Which anchors of a grid can reach some IoU with a box: a window, by bounds that leave a margin for rounding. What
// lies in it is computed exactly by whoever asks, and what lies outside of it cannot matter.
#pragma once

#include <algorithm>
#include <limits>

#include "match/match.h"
#include "match/tables.h"

namespace anchor_ext {

// More than all roundings of an IoU and of a window's bounds together, relative to what is compared. Below this area of
// a box and this IoU an intersection may be subnormal, whose roundings are greater: there nothing is bounded.
inline constexpr double kMargin = 1e-5;
inline constexpr double kLeastArea = 1e-20;
inline constexpr double kLeastIou = 1e-12;

// Boxes for which windows hold: finite, and not inverted (x2 < x1 or y2 < y1).
template <typename T>
inline bool is_proper(const Box<T>& box) {
  const T most = std::numeric_limits<T>::max(), area = area_of(box);
  return box.x1 >= -most && box.y1 >= -most && box.x2 <= most && box.y2 <= most && box.x1 <= box.x2 &&
         box.y1 <= box.y2 && area <= most;
}

// Some anchors of one cell anchor.
struct Window {
  const CellAnchorGrid* grid;
  Range columns, rows;

  bool is_empty() const { return columns.begin >= columns.end || rows.begin >= rows.end; }
};

// How far the anchors of a grid can overlap a box of this area along either axis, and the least that the areas of both
// can be together.
struct Reach {
  double width, height, sum;
};

template <typename T>
inline Reach reach_of(const CellAnchorGrid& grid, const Box<T>& box, T area) {
  return {std::min(double{box.x2} - box.x1, double{grid.x.longest}),
          std::min(double{box.y2} - box.y1, double{grid.y.longest}), area + grid.least_area};
}

// A lower bound of the exact IoU of an anchor whose computed IoU with a box of this area is `iou`; 0 where rounding
// permits no bound.
template <typename T>
inline double bound_of(T area, double iou) {
  return iou >= kLeastIou && area >= kLeastArea ? iou * (1 - kMargin) : 0;
}

inline bool can_reach(double iou, const Reach& reach) {
  return !(reach.width * reach.height * (1 + kMargin) * (1 + iou) < iou * reach.sum);
}

// An IoU needs an intersection of so many pixels, hence an overlap so wide and so high.
template <typename T>
inline Window window_of(const CellAnchorGrid& grid, const Box<T>& box, double iou, const Reach& reach) {
  const double inter = iou / (1 + iou) * reach.sum * (1 - kMargin);
  const double width = reach.height > 0 ? inter / reach.height * (1 - kMargin) : 0;
  const double height = reach.width > 0 ? inter / reach.width * (1 - kMargin) : 0;
  return {&grid, range_of(grid.x, box.x1 + width, box.x2 - width), range_of(grid.y, box.y1 + height, box.y2 - height)};
}

template <typename T>
inline T height_of(const CellAnchorGrid& grid, std::int64_t row, const Box<T>& box) {
  const T low = grid.y.low[row], high = grid.y.high[row];
  const T height = std::min(high, box.y2) - std::max(low, box.y1);
  return height > 0 ? height : 0;
}

}  // namespace anchor_ext
