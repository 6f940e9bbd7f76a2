// The best anchor of each box on the CPU.
//
// Among the anchors of one cell anchor none is better than the one whose centre is nearest to the box's, but for
// rounding, which can raise a neighbour's IoU by a bit, and for clipping, which makes them differ. So the nearest ones
// give an IoU that is reached for certain; then only the windows are searched in which that can be reached: of a few
// cell anchors, a few cells each.
#include <algorithm>
#include <iterator>
#include <vector>

#include "match/best_anchor.h"
#include "match/rows.h"
#include "match/windows.h"

namespace anchor_ext {
namespace {

template <typename T>
struct Best {
  T iou = 0;
  std::int64_t index = -1;

  void take(T other, std::int64_t at) {
    if (other > iou || (other == iou && at < index)) iou = other, index = at;
  }
};

// The cell whose centre is the nearest one, where anchors lie evenly; elsewhere some cell.
std::int64_t nearest_cell(const Axis& axis, double low, double high) {
  const double cell = ((low - axis.first_low) + (high - axis.first_high)) / 2 * axis.cells_per_pixel;
  const auto last = static_cast<double>(axis.cells - 1);
  return cell > 0 ? static_cast<std::int64_t>(cell < last ? cell + 0.5 : last) : 0;
}

template <typename T>
class Search {
 public:
  explicit Search(const Tables& tables) : tables_(tables) {
    for (const CellAnchorGrid& grid : tables.grids) {
      width_.push_back(grid.x.longest);
      height_.push_back(grid.y.longest);
      area_.push_back(static_cast<T>(grid.least_area));
    }
    bounds_.resize(tables.grids.size());
  }

  // Of a proper box.
  Best<T> best_of(const Box<T>& box) {
    Best<T> best;
    const T area = area_of(box);
    if (!(area > 0) || bounds_.empty()) return best;
    const auto count = static_cast<int64_t>(bounds_.size());
    const T greatest = bounds({width_.data(), height_.data(), area_.data(), count}, box.x2 - box.x1, box.y2 - box.y1,
                              area, bounds_.data());
    const auto likely = std::find(bounds_.begin(), bounds_.end(), greatest) - bounds_.begin();
    T reached = iou_of_nearest(tables_.grids[likely], box, area);
    T least = least_bound(area, reached);
    some_.clear();
    for (std::size_t c = 0; c < bounds_.size(); ++c) {
      if (bounds_[c] < least) continue;
      some_.push_back(c);
      const T iou = iou_of_nearest(tables_.grids[c], box, area);
      if (iou > reached) reached = iou, least = least_bound(area, reached);
    }
    for (const std::size_t c : some_)
      if (!(bounds_[c] < least)) search(tables_.grids[c], box, area, std::max(reached, best.iou), best);
    return best;
  }

 private:
  // What the bound of a grid is at least that has an anchor of this IoU.
  static T least_bound(T area, T iou) { return static_cast<T>(bound_of(area, iou) * (1 - kMargin)); }

  static T iou_at(const CellAnchorGrid& grid, std::int64_t row, std::int64_t column, T height, const Box<T>& box,
                  T area) {
    const T low = grid.x.low[column], high = grid.x.high[column];
    const T width = std::min(high, box.x2) - std::max(low, box.x1);
    const T inter = (width > 0 ? width : 0) * height;
    if (!(inter > 0)) return 0;
    return inter / ((area + static_cast<T>(grid.x.length[column] * grid.y.length[row])) - inter);
  }

  static T iou_of_nearest(const CellAnchorGrid& grid, const Box<T>& box, T area) {
    const std::int64_t row = nearest_cell(grid.y, box.y1, box.y2);
    return iou_at(grid, row, nearest_cell(grid.x, box.x1, box.x2), height_of(grid, row, box), box, area);
  }

  static void search(const CellAnchorGrid& grid, const Box<T>& box, T area, T reached, Best<T>& best) {
    const Window window = window_of(grid, box, bound_of(area, reached), reach_of(grid, box, area));
    for (std::int64_t row = window.rows.begin; row < window.rows.end; ++row) {
      const T height = height_of(grid, row, box);
      for (std::int64_t column = window.columns.begin; column < window.columns.end; ++column)
        best.take(iou_at(grid, row, column, height, box, area),
                  grid.begin + (row * grid.x.cells + column) * grid.cell_anchors);
    }
  }

  const Tables& tables_;
  std::vector<T> width_, height_, area_, bounds_;
  std::vector<std::size_t> some_;
};

// For boxes and anchors of any kind.
template <typename T>
Best<T> best_of_all(const Pyramid& pyramid, const Box<T>& box) {
  Rule rule{};
  rule.quotient = Quotient::zero_if_nothing;
  Best<T> best;
  const T area = area_of(box);
  for (std::int64_t i = 0; i < pyramid.num_anchors; ++i) {
    const Box<float> anchor = box_at(pyramid, i);
    best.take(iou_of(rule, box, area, anchor, area_of(anchor)), i);
  }
  return best;
}

}  // namespace

template <typename T>
void best_anchors_cpu(const Pyramid& pyramid, const Tables& tables, const Box<T>* boxes, const BestAnchors<T>& best,
                      std::int64_t begin, std::int64_t end) {
  Search<T> search(tables);
  for (std::int64_t g = begin; g < end; ++g) {
    const bool proper = tables.proper && is_proper(boxes[g]);
    const Best<T> of_box = proper ? search.best_of(boxes[g]) : best_of_all(pyramid, boxes[g]);
    best.iou[g] = of_box.iou;
    best.index[g] = of_box.index;
  }
}

template void best_anchors_cpu(const Pyramid&, const Tables&, const Box<float>*, const BestAnchors<float>&,
                               std::int64_t, std::int64_t);
template void best_anchors_cpu(const Pyramid&, const Tables&, const Box<double>*, const BestAnchors<double>&,
                               std::int64_t, std::int64_t);

}  // namespace anchor_ext
