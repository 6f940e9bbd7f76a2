// The CPU's matching, one image at a time.
//
// Anchors lie on grids: an anchor's overlap with a box is one number per column times one per row. So there are small
// tables per cell anchor, and per box and cell anchor only a window of the grid matters: where anchors overlap the box,
// if every anchor's best box is asked for, or else where the lowest threshold can be reached. A window is found by
// bounds that leave a margin for rounding; what lies in it is computed exactly, and what lies outside of it cannot
// matter.
//
// Boxes and pyramids for which that does not hold (a box that is inverted or not finite, an anchor of negative area)
// are matched pair by pair, and so are images with regions to be ignored: as right, but slow.
#include <algorithm>
#include <iterator>
#include <limits>
#include <vector>

#include "match/match.h"
#include "match/pairs.h"
#include "match/rows.h"
#include "match/windows.h"

namespace anchor_ext {
namespace {

struct Taken {
  const CellAnchorGrid* grid;
  std::int32_t row, column, box;

  std::int64_t flat() const { return grid->begin + cell() * grid->cell_anchors; }
  std::int64_t planar() const { return grid->plane + cell(); }
  std::int64_t cell() const { return row * grid->x.cells + column; }
  Box<float> anchor() const { return {grid->x.low[column], grid->y.low[row], grid->x.high[column], grid->y.high[row]}; }
};

template <typename T>
class Windows {
 public:
  Windows(const Tables& tables, const Rule& rule)
      : tables_(tables),
        rule_(rule),
        floor_(rule.num_thresholds > 0 ? double{static_cast<T>(rule.thresholds[0])} : 0) {}

  // Of one image. `every` asks for the best box of every anchor, also of those below the lowest threshold.
  void match(const Box<T>* boxes, std::int64_t count, bool every, std::int64_t* matched, T* iou) {
    if (!every) every = !(floor_ > 0) || rule_.codes[0] == kMatched || rule_.packs_bin || iou != nullptr;
    begin_image(boxes, count);
    const bool low_quality = rule_.gets != Gets::nothing;
    std::int32_t of_all = -1;
    for (std::int32_t g = 0; g < count_; ++g) {
      Signed<T> most = visit_box(g, every ? 0 : floor_, true);
      if (!low_quality) continue;
      if (!every && iou_of(most) < static_cast<T>(floor_)) most = visit_box(g, 0, false);
      if (!takes(rule_, iou_of(most))) continue;
      if (most > 0) {
        take(g, most);
        if (taken_.size() > most_taken_) drop_repeated();
      } else if (rule_.only_first) {
        taken_.push_back({&tables_.grids[0], 0, 0, g});
      } else if (rule_.gets != Gets::own) {
        if (of_all < 0 || rule_.gets == Gets::last) of_all = g;
      } else if (every) {
        of_all = g;
      } else {  // nearly every anchor is given its own best box
        return match(boxes, count, true, matched, iou);
      }
    }
    if (low_quality) drop_repeated();
    if (every)
      write_all(of_all >= 0 && rule_.gets == Gets::own, matched, iou);
    else
      write_visited(matched);
    write_taken(every, of_all, matched);
  }

 private:
  static T iou_of(Signed<T> key) { return iou_of_key(static_cast<Key<T>>(key)); }

  void begin_image(const Box<T>* boxes, std::int64_t count) {
    boxes_ = boxes;
    count_ = static_cast<std::int32_t>(count);
    best_.assign(static_cast<std::size_t>(tables_.num_anchors), 0);
    index_.resize(best_.size());  // read only where the best IoU is not 0
    widths_.resize(static_cast<std::size_t>(tables_.widest));
    visited_.clear();
    taken_.clear();
    columns_.clear();
  }

  // What can reach an IoU of `least` with box g (0: any overlap); returns the greatest IoU, as a key. What is outside
  // of the windows has less, or none. To `keep` is to write it later; else only the greatest is wanted, and less need
  // not be looked at.
  Signed<T> visit_box(std::int32_t g, double least, bool keep) {
    const Box<T>& box = boxes_[g];
    const T area = area_of(box);
    Signed<T> most = 0;
    most_of_grid_.assign(tables_.grids.size(), 0);
    if (!(area > 0)) return most;
    for (std::size_t c = 0; c < tables_.grids.size(); ++c) {
      const CellAnchorGrid& grid = tables_.grids[c];
      const Reach reach = reach_of(grid, box, area);
      const double at_least = bound_of(area, std::max(least, keep ? 0.0 : double{iou_of(most)}));
      if (!can_reach(at_least, reach)) continue;
      const Window window = window_of(grid, box, at_least, reach);
      if (window.is_empty()) continue;
      if (keep) visited_.push_back(window);
      most_of_grid_[c] = update_window(window, g, box, area);
      most = std::max(most, most_of_grid_[c]);
    }
    return most;
  }

  Signed<T> update_window(const Window& window, std::int32_t g, const Box<T>& box, T area) {
    const CellAnchorGrid& grid = *window.grid;
    const std::int32_t left = window.columns.begin, cells = window.columns.end - left;
    overlaps(grid.x.low + left, grid.x.high + left, box.x1, box.x2, cells, widths_.data());
    Signed<T> most = 0;
    for (std::int64_t row = window.rows.begin; row < window.rows.end; ++row) {
      const std::int64_t at = grid.plane + row * grid.x.cells + left;
      most = std::max(most,
                      update({widths_.data(), grid.x.length + left, height_of(grid, row, box), grid.y.length[row], area,
                              static_cast<T>(rule_.least_union), g, best_.data() + at, index_.data() + at, cells}));
    }
    return most;
  }

  // The anchors whose IoU with box g is the greatest.
  void take(std::int32_t g, Signed<T> most) {
    const Box<T>& box = boxes_[g];
    const T area = area_of(box);
    const std::size_t before = taken_.size();
    for (std::size_t c = 0; c < tables_.grids.size(); ++c) {
      if (most_of_grid_[c] != most) continue;
      const CellAnchorGrid& grid = tables_.grids[c];
      const Window window = window_of(grid, box, bound_of(area, iou_of(most)), reach_of(grid, box, area));
      const std::int32_t left = window.columns.begin, cells = window.columns.end - left;
      overlaps(grid.x.low + left, grid.x.high + left, box.x1, box.x2, cells, widths_.data());
      for (std::int32_t row = window.rows.begin; row < window.rows.end; ++row) {
        const Row<T> some{widths_.data(),
                          grid.x.length + left,
                          height_of(grid, row, box),
                          grid.y.length[row],
                          area,
                          static_cast<T>(rule_.least_union),
                          g,
                          nullptr,
                          nullptr,
                          cells};
        for (std::int32_t i = 0; i < cells; ++i)
          if (key_at(some, i) == most) taken_.push_back({&grid, row, left + i, g});
      }
    }
    if (!rule_.only_first || taken_.size() == before) return;
    const auto first = std::min_element(taken_.begin() + static_cast<std::ptrdiff_t>(before), taken_.end(),
                                        [](const Taken& a, const Taken& b) { return a.flat() < b.flat(); });
    taken_[before] = *first;
    taken_.resize(before + 1);
  }

  // Keeps one entry for each anchor, in their order: that of the box which gets it.
  void drop_repeated() {
    std::vector<bool> seen(static_cast<std::size_t>(tables_.num_anchors));
    const auto is_repeated = [&seen](const Taken& one) {
      auto bit = seen[static_cast<std::size_t>(one.planar())];
      const bool is = bit;
      bit = true;
      return is;
    };
    if (rule_.gets == Gets::last)
      taken_.erase(taken_.begin(), std::remove_if(taken_.rbegin(), taken_.rend(), is_repeated).base());
    else
      taken_.erase(std::remove_if(taken_.begin(), taken_.end(), is_repeated), taken_.end());
    most_taken_ = std::max(most_taken_, 2 * taken_.size());
  }

  void write_all(bool all_taken, std::int64_t* matched, T* iou) const {
    for (const CellAnchorGrid& grid : tables_.grids)
      for (std::int64_t cell = 0; cell < grid.x.cells * grid.y.cells; ++cell) {
        const std::int64_t flat = grid.begin + cell * grid.cell_anchors;
        const T best = iou_of(best_[grid.plane + cell]);
        const std::int64_t box = best > 0 ? index_[grid.plane + cell] : 0;
        matched[flat] = all_taken ? low_quality_result(rule_, box) : result_of(rule_, best, box);
        if (iou != nullptr) iou[flat] = best;
      }
  }

  // All others lie below the lowest threshold.
  void write_visited(std::int64_t* matched) const {
    std::fill_n(matched, tables_.num_anchors, rule_.codes[0]);
    for (const Window& window : visited_) {
      const CellAnchorGrid& grid = *window.grid;
      for (std::int64_t row = window.rows.begin; row < window.rows.end; ++row)
        for (std::int64_t column = window.columns.begin; column < window.columns.end; ++column) {
          const std::int64_t cell = row * grid.x.cells + column;
          const T best = iou_of(best_[grid.plane + cell]);
          if (best >= static_cast<T>(floor_))
            matched[grid.begin + cell * grid.cell_anchors] =
                result_of(rule_, best, std::int64_t{index_[grid.plane + cell]});
        }
    }
  }

  // In the boxes' order, or the other way round: the last one that is written wins. Box `of_all` takes every anchor.
  void write_taken(bool every, std::int32_t of_all, std::int64_t* matched) {
    const auto write = [&](const Taken& one) {
      matched[one.flat()] =
          low_quality_result(rule_, rule_.gets == Gets::own ? own_box(one, every) : std::int64_t{one.box});
    };
    if (rule_.gets == Gets::own) {
      for (const Taken& one : taken_) write(one);
      return;
    }
    const auto later = std::upper_bound(taken_.begin(), taken_.end(), of_all,
                                        [](std::int32_t box, const Taken& one) { return box < one.box; });
    if (rule_.gets == Gets::last) {
      if (of_all >= 0) std::fill_n(matched, tables_.num_anchors, low_quality_result(rule_, of_all));
      std::for_each(later, taken_.end(), write);
      return;
    }
    const auto end = of_all < 0 ? taken_.end() : later;
    if (of_all >= 0) std::fill_n(matched, tables_.num_anchors, low_quality_result(rule_, of_all));
    std::for_each(std::make_reverse_iterator(end), taken_.rend(), write);
  }

  // The box that is the anchor's best of all, which nothing but its own IoUs can say where they are low.
  std::int64_t own_box(const Taken& one, bool every) {
    const std::int64_t at = one.planar();
    if (every || iou_of(best_[at]) >= static_cast<T>(floor_)) return best_[at] > 0 ? index_[at] : 0;
    const auto count = static_cast<std::size_t>(count_);
    if (columns_.empty()) {
      columns_.resize(5 * count);
      for (std::size_t g = 0; g < count; ++g) {
        const Box<T>& box = boxes_[g];
        const T numbers[] = {box.x1, box.y1, box.x2, box.y2, area_of(box)};
        for (std::size_t k = 0; k < 5; ++k) columns_[k * count + g] = numbers[k];
      }
      keys_.resize(count);
    }
    const T* const c = columns_.data();
    all_keys(Columns<T>{c, c + count, c + 2 * count, c + 3 * count, c + 4 * count, count_}, one.anchor(),
             static_cast<T>(rule_.least_union), keys_.data());
    return std::max_element(keys_.begin(), keys_.end()) - keys_.begin();
  }

  const Tables& tables_;
  const Rule& rule_;
  const double floor_;
  const Box<T>* boxes_ = nullptr;
  std::int32_t count_ = 0;
  std::vector<Signed<T>> best_, most_of_grid_, keys_;
  std::vector<std::int32_t> index_;
  std::vector<T> widths_, columns_;
  std::vector<Window> visited_;
  std::vector<Taken> taken_;
  std::size_t most_taken_ = 4096;
};

}  // namespace

template <typename T>
void match_cpu(const Pyramid& pyramid, const Rule& rule, const CpuBoxes<T>& boxes, const CpuBoxes<T>& regions,
               const Matches<T>& matches, std::int64_t begin, std::int64_t end) {
  const Tables tables = tables_of(pyramid);
  bool has_flat_anchor = false;
  for (const CellAnchorGrid& grid : tables.grids) has_flat_anchor = has_flat_anchor || grid.may_be_flat;
  Windows<T> windows(tables, rule);
  for (std::int64_t image = begin; image < end; ++image) {
    const Box<T>* const own = boxes.boxes + boxes.begins[image];
    const std::int64_t count = boxes.begins[image + 1] - boxes.begins[image];
    const Regions<T> of_image =
        regions.boxes == nullptr || rule.ignored_from == 0
            ? Regions<T>{}
            : Regions<T>{regions.boxes + regions.begins[image],
                         static_cast<std::int32_t>(regions.begins[image + 1] - regions.begins[image])};
    std::int64_t* const matched = matches.matched + image * pyramid.num_anchors;
    T* const iou = matches.iou == nullptr ? nullptr : matches.iou + image * pyramid.num_anchors;
    if (count == 0) {
      std::fill_n(matched, pyramid.num_anchors, result_without_boxes(rule));
      if (iou != nullptr) std::fill_n(iou, pyramid.num_anchors, T{0});
      continue;
    }
    const bool proper = tables.proper && std::all_of(own, own + count, [&](const Box<T>& box) {
                          return is_proper(box) && (!has_flat_anchor || area_of(box) > 0);
                        });
    if (proper && pyramid.num_anchors > 0 && of_image.count == 0)
      windows.match(own, count, false, matched, iou);
    else
      match_pairs(pyramid, rule, own, count, of_image, matched, iou);
  }
}

template void match_cpu(const Pyramid&, const Rule&, const CpuBoxes<float>&, const CpuBoxes<float>&,
                        const Matches<float>&, std::int64_t, std::int64_t);
template void match_cpu(const Pyramid&, const Rule&, const CpuBoxes<double>&, const CpuBoxes<double>&,
                        const Matches<double>&, std::int64_t, std::int64_t);

}  // namespace anchor_ext
