// The CPU's matching, one image at a time.
//
// Anchors lie on grids: an anchor's overlap with a box is one number per column times one per row. So there are small
// tables per class of anchors (a level's cell anchor), and per box and class only a window of the grid matters: where
// anchors overlap the box, if every anchor's best box is asked for, or else where the lowest threshold can be reached.
// A window is found by bounds that leave a margin for rounding; what lies in it is computed exactly, and what lies
// outside of it cannot matter.
//
// Boxes and pyramids for which that does not hold (a box turned inside out or not finite, an anchor of negative area)
// are matched pair by pair: as right, but slow.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "match/match.h"

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(ANCHOR_EXT_NO_CLONES)
#define ANCHOR_EXT_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ANCHOR_EXT_CLONES
#endif
#define ANCHOR_EXT_INLINE inline __attribute__((always_inline))

namespace anchor_ext {
namespace {

// More than all roundings of an IoU and of a window's bounds together, relative to what is compared; areas below
// kLeastArea may lose more.
constexpr double kMargin = 1e-5;
constexpr double kLeastArea = 1e-20;

// One axis of a class: the anchors' ends and lengths, cell by cell.
struct Axis {
  const float *low, *high, *length;
  std::int64_t cells;
  float shortest, longest;
  bool ascends;
  double first_low, first_high, cells_per_pixel;
};

// Cells begin .. end-1.
struct Range {
  std::int64_t begin, end;
};

struct Class {
  Axis x, y;
  std::int64_t begin;         // flat index of its first anchor
  std::int64_t cell_anchors;  // of its level: the distance of its anchors
  std::int64_t plane;         // where its anchors lie one after another, row by row
  double least_area;
};

struct Tables {
  std::vector<float> numbers;
  std::vector<Class> classes;
  std::int64_t num_anchors, widest;
  bool proper;  // every anchor is finite, and none is turned inside out
};

// The lowest index i with at(i), of 0 .. count: at() is false and then true. The guess is tried first.
template <typename At>
std::int64_t first_where(std::int64_t count, double guess, const At& at) {
  std::int64_t low = 0, high = count;
  std::int64_t i = guess > 0 ? guess < static_cast<double>(count) ? static_cast<std::int64_t>(guess) : count : 0;
  for (std::int64_t step = 1; low < high; step *= 2) {
    i = std::clamp(i, low, high - 1);
    if (at(i)) {
      high = i;
      i -= step;
    } else {
      low = i + 1;
      i += step;
    }
    if (step > 16) i = low + (high - low) / 2;
  }
  return low;
}

// The cells whose anchors reach up to `least` at least, and begin at `most` at the latest.
Range range_of(const Axis& axis, double least, double most) {
  if (!axis.ascends) return {0, axis.cells};
  const std::int64_t begin = first_where(axis.cells, std::ceil((least - axis.first_high) * axis.cells_per_pixel),
                                         [&](std::int64_t i) { return axis.high[i] >= least; });
  const std::int64_t end = first_where(axis.cells, std::floor((most - axis.first_low) * axis.cells_per_pixel) + 1,
                                       [&](std::int64_t i) { return axis.low[i] > most; });
  return {begin, std::max(begin, end)};
}

void fill_axis(const Pyramid& pyramid, const Side& side, const double* centres, double low, double high, int k_low,
               int k_high, float* to, Axis& axis) {
  float* const lows = to;
  float* const highs = to + side.cells;
  float* const lengths = highs + side.cells;
  for (std::int64_t i = 0; i < side.cells; ++i) {
    lows[i] = narrowed(pyramid.plain ? low + centres[i] : component<false>(pyramid, low, k_low, centres[i], centres[i]));
    highs[i] =
        narrowed(pyramid.plain ? high + centres[i] : component<false>(pyramid, high, k_high, centres[i], centres[i]));
    lengths[i] = highs[i] - lows[i];
  }
  axis = {lows, highs, lengths, side.cells, lengths[0], lengths[0], true, lows[0], highs[0], 0};
  for (std::int64_t i = 1; i < side.cells; ++i) {
    axis.shortest = std::min(axis.shortest, lengths[i]);
    axis.longest = std::max(axis.longest, lengths[i]);
    axis.ascends = axis.ascends && lows[i] >= lows[i - 1] && highs[i] >= highs[i - 1];
  }
  const double pixels = double{lows[side.cells - 1]} - lows[0];
  axis.cells_per_pixel = pixels > 0 ? static_cast<double>(side.cells - 1) / pixels : 0;
}

Tables tables_of(const Pyramid& pyramid) {
  Tables tables{};
  tables.num_anchors = pyramid.num_anchors;
  tables.proper = true;
  std::int64_t numbers = 0;
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l) {
    const Level& level = pyramid.levels[l];
    numbers += 3 * (level.x.cells + level.y.cells) * level.num_cell_anchors;
  }
  tables.numbers.resize(static_cast<std::size_t>(numbers));
  float* to = tables.numbers.data();
  const bool xyxy = pyramid.layout.along_x == kXyxy.along_x;
  const int x = xyxy ? 0 : 1, y = 1 - x;
  std::vector<double> centres_x, centres_y;
  std::int64_t plane = 0;
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l) {
    const Level& level = pyramid.levels[l];
    if (level.x.cells == 0 || level.y.cells == 0) continue;
    centres_x.resize(static_cast<std::size_t>(level.x.cells));
    centres_y.resize(static_cast<std::size_t>(level.y.cells));
    for (std::int64_t i = 0; i < level.x.cells; ++i) centres_x[i] = centre<false>(pyramid.arithmetic, level.x, i);
    for (std::int64_t i = 0; i < level.y.cells; ++i) centres_y[i] = centre<false>(pyramid.arithmetic, level.y, i);
    for (std::int32_t a = 0; a < level.num_cell_anchors; ++a) {
      const double* const cell_anchor = cell_anchor_at(pyramid, level, a);
      Class made{};
      fill_axis(pyramid, level.x, centres_x.data(), cell_anchor[x], cell_anchor[x + 2], x, x + 2, to, made.x);
      to += 3 * level.x.cells;
      fill_axis(pyramid, level.y, centres_y.data(), cell_anchor[y], cell_anchor[y + 2], y, y + 2, to, made.y);
      to += 3 * level.y.cells;
      made.begin = level.begin + a;
      made.cell_anchors = level.num_cell_anchors;
      made.plane = plane;
      made.least_area = double{made.x.shortest} * made.y.shortest;
      const float most = made.x.longest * made.y.longest;
      tables.proper = tables.proper && made.x.shortest >= 0 && made.y.shortest >= 0 &&
                      most <= std::numeric_limits<float>::max();
      plane += level.x.cells * level.y.cells;
      tables.widest = std::max(tables.widest, level.x.cells);
      tables.classes.push_back(made);
    }
  }
  return tables;
}

template <typename T>
using Signed = std::make_signed_t<Key<T>>;  // which compilers make vectors of; keys are not negative

// Some anchors of a row beside a box: updates their best IoU and box, and returns the greatest IoU among them.
template <typename T>
struct Row {
  const T* widths;       // of the overlap
  const float* lengths;  // of the anchors
  T height;              // of the overlap
  float length;          // of the anchors
  T area, least_union;
  std::int32_t box;
  Signed<T>* best;
  std::int32_t* index;
  std::int64_t cells;
};

template <typename T>
ANCHOR_EXT_INLINE Signed<T> key_at(const Row<T>& row, std::int64_t i) {
  const T inter = row.widths[i] * row.height;
  const T both = (row.area + static_cast<T>(row.lengths[i] * row.length)) - inter;
  return static_cast<Signed<T>>(bits_of(inter / (both < row.least_union ? row.least_union : both)));
}

template <typename T>
ANCHOR_EXT_INLINE Signed<T> update_row(const Row<T> row) {
  const T* __restrict const widths = row.widths;
  const float* __restrict const lengths = row.lengths;
  Signed<T>* __restrict const best = row.best;
  std::int32_t* __restrict const index = row.index;
  const T height = row.height, area = row.area, least = row.least_union;
  const float length = row.length;
  const std::int32_t box = row.box;
  Signed<T> most = 0;
  for (std::int64_t i = 0; i < row.cells; ++i) {
    const T inter = widths[i] * height;
    const T both = (area + static_cast<T>(lengths[i] * length)) - inter;
    const auto key = static_cast<Signed<T>>(bits_of(inter / (both < least ? least : both)));
    const Signed<T> old = best[i];
    best[i] = key > old ? key : old;
    index[i] = key > old ? box : index[i];
    most = key > most ? key : most;
  }
  return most;
}

ANCHOR_EXT_CLONES std::int32_t update(const Row<float>& row) { return update_row(row); }
ANCHOR_EXT_CLONES std::int64_t update(const Row<double>& row) { return update_row(row); }

template <typename T>
ANCHOR_EXT_INLINE void overlap_all(const float* __restrict low, const float* __restrict high, T box_low, T box_high,
                                   std::int64_t cells, T* __restrict out) {
  for (std::int64_t i = 0; i < cells; ++i) {
    const T begin = low[i] > box_low ? T{low[i]} : box_low, end = high[i] < box_high ? T{high[i]} : box_high;
    const T length = end - begin;
    out[i] = length > 0 ? length : 0;
  }
}

ANCHOR_EXT_CLONES void overlaps(const float* low, const float* high, float box_low, float box_high, std::int64_t cells,
                                float* out) {
  overlap_all(low, high, box_low, box_high, cells, out);
}
ANCHOR_EXT_CLONES void overlaps(const float* low, const float* high, double box_low, double box_high,
                                std::int64_t cells, double* out) {
  overlap_all(low, high, box_low, box_high, cells, out);
}

// The boxes, component by component, and the anchor that is to be compared with all of them.
template <typename T>
struct Columns {
  const T *x1, *y1, *x2, *y2, *area;
  std::int64_t count;
};

template <typename T>
ANCHOR_EXT_INLINE void keys_of_boxes(const Columns<T> boxes, const Box<float> anchor, T least_union,
                                     Signed<T>* __restrict out) {
  const T x1 = anchor.x1, y1 = anchor.y1, x2 = anchor.x2, y2 = anchor.y2;
  const T area = static_cast<T>((anchor.x2 - anchor.x1) * (anchor.y2 - anchor.y1));
  for (std::int64_t g = 0; g < boxes.count; ++g) {
    T width = (boxes.x2[g] < x2 ? boxes.x2[g] : x2) - (boxes.x1[g] > x1 ? boxes.x1[g] : x1);
    T height = (boxes.y2[g] < y2 ? boxes.y2[g] : y2) - (boxes.y1[g] > y1 ? boxes.y1[g] : y1);
    width = width > 0 ? width : 0;
    height = height > 0 ? height : 0;
    const T inter = width * height;
    const T both = (boxes.area[g] + area) - inter;
    out[g] = static_cast<Signed<T>>(bits_of(inter / (both < least_union ? least_union : both)));
  }
}

ANCHOR_EXT_CLONES void all_keys(const Columns<float>& boxes, const Box<float>& anchor, float least, std::int32_t* out) {
  keys_of_boxes(boxes, anchor, least, out);
}
ANCHOR_EXT_CLONES void all_keys(const Columns<double>& boxes, const Box<float>& anchor, double least,
                                std::int64_t* out) {
  keys_of_boxes(boxes, anchor, least, out);
}

// Some anchors of a class.
struct Window {
  const Class* of;
  Range columns, rows;
};

struct Taken {
  const Class* of;
  std::int64_t row, column;
  std::int32_t box;

  std::int64_t flat() const { return of->begin + (row * of->x.cells + column) * of->cell_anchors; }
  std::int64_t planar() const { return of->plane + row * of->x.cells + column; }
  Box<float> anchor() const {
    return {of->x.low[column], of->y.low[row], of->x.high[column], of->y.high[row]};
  }
};

template <typename T>
class Windows {
 public:
  Windows(const Tables& tables, const Rule& rule)
      : tables_(tables), rule_(rule), floor_(rule.num_thresholds > 0 ? rule.thresholds[0] : 0) {}

  // Of one image. `every` asks for the best box of every anchor, also of those below the lowest threshold.
  void match(const Box<T>* boxes, std::int64_t count, bool every, std::int64_t* matched, T* iou) {
    if (!every) every = !(floor_ > 0) || rule_.codes[0] == kMatched || rule_.both || iou != nullptr;
    begin_image(boxes, count);
    const bool low_quality = rule_.gets != Gets::nothing;
    std::int32_t last_of_all = -1;
    for (std::int32_t g = 0; g < count_; ++g) {
      Signed<T> most = visit(g, every ? 0 : floor_, true);
      if (!low_quality) continue;
      if (!every && iou_of(most) < static_cast<T>(floor_)) most = visit(g, 0, false);
      if (!takes(rule_, iou_of(most))) continue;
      if (most > 0) {
        take(g, most);
      } else if (rule_.only_first) {
        taken_.push_back({&tables_.classes[0], 0, 0, g});
      } else if (rule_.gets != Gets::own) {
        if (last_of_all < 0 || rule_.gets == Gets::last) last_of_all = g;
      } else if (every) {
        last_of_all = g;
      } else {  // nearly every anchor is given its own best box
        return match(boxes, count, true, matched, iou);
      }
    }
    if (every)
      write_all(last_of_all >= 0 && rule_.gets == Gets::own, matched, iou);
    else
      write_visited(matched);
    write_taken(every, last_of_all, matched);
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

  // What can reach an IoU of `least` with box g (0: any overlap); returns the greatest IoU that was seen. What is
  // outside of the windows has less, or none.
  Signed<T> visit(std::int32_t g, double least, bool keep) {
    const Box<T>& box = boxes_[g];
    const double width = double{box.x2} - box.x1, height = double{box.y2} - box.y1;
    const T area = area_of(box);
    Signed<T> most = 0;
    most_of_class_.assign(tables_.classes.size(), 0);
    if (!(area > 0)) return most;
    if (area < kLeastArea) least = 0;
    for (std::size_t c = 0; c < tables_.classes.size(); ++c) {
      const Class& of = tables_.classes[c];
      const double most_width = std::min(width, double{of.x.longest}), most_height = std::min(height, double{of.y.longest});
      const double sum = area + of.least_area, inter = most_width * most_height * (1 + kMargin);
      const double at_least = std::max(least, keep ? 0.0 : double{iou_of(most)}) * (1 - kMargin);
      if (of.least_area > kLeastArea && inter * (1 + at_least) < at_least * sum) continue;
      const Window window = window_of(of, box, of.least_area > kLeastArea ? at_least : 0, sum, most_width, most_height);
      if (window.columns.begin >= window.columns.end || window.rows.begin >= window.rows.end) continue;
      if (keep) visited_.push_back(window);
      most_of_class_[c] = visit(window, g, box, area);
      most = std::max(most, most_of_class_[c]);
    }
    return most;
  }

  static Window window_of(const Class& of, const Box<T>& box, double iou, double sum, double most_width,
                          double most_height) {
    // An IoU needs an intersection of so many pixels, hence an overlap so wide and so high.
    const double inter = iou / (1 + iou) * sum * (1 - kMargin);
    const double width = most_height > 0 ? inter / most_height * (1 - kMargin) : 0;
    const double height = most_width > 0 ? inter / most_width * (1 - kMargin) : 0;
    return {&of, range_of(of.x, box.x1 + width, box.x2 - width), range_of(of.y, box.y1 + height, box.y2 - height)};
  }

  Signed<T> visit(const Window& window, std::int32_t g, const Box<T>& box, T area) {
    const Class& of = *window.of;
    const std::int64_t left = window.columns.begin, cells = window.columns.end - left;
    overlaps(of.x.low + left, of.x.high + left, box.x1, box.x2, cells, widths_.data());
    Signed<T> most = 0;
    for (std::int64_t row = window.rows.begin; row < window.rows.end; ++row) {
      const std::int64_t at = of.plane + row * of.x.cells + left;
      most = std::max(most, update({widths_.data(), of.x.length + left, height_of(of, row, box), of.y.length[row], area,
                                    static_cast<T>(rule_.least_union), g, best_.data() + at, index_.data() + at, cells}));
    }
    return most;
  }

  static T height_of(const Class& of, std::int64_t row, const Box<T>& box) {
    T height;
    overlap_all<T>(of.y.low + row, of.y.high + row, box.y1, box.y2, 1, &height);
    return height;
  }

  // The anchors whose IoU with box g is the greatest.
  void take(std::int32_t g, Signed<T> most) {
    const Box<T>& box = boxes_[g];
    const double width = double{box.x2} - box.x1, height = double{box.y2} - box.y1;
    const T area = area_of(box);
    const std::size_t before = taken_.size();
    for (std::size_t c = 0; c < tables_.classes.size(); ++c) {
      if (most_of_class_[c] != most) continue;
      const Class& of = tables_.classes[c];
      const bool bounded = area >= kLeastArea && of.least_area > kLeastArea;
      const Window window = window_of(of, box, bounded ? iou_of(most) * (1 - kMargin) : 0, area + of.least_area,
                                      std::min(width, double{of.x.longest}), std::min(height, double{of.y.longest}));
      const std::int64_t left = window.columns.begin, cells = window.columns.end - left;
      overlaps(of.x.low + left, of.x.high + left, box.x1, box.x2, cells, widths_.data());
      for (std::int64_t row = window.rows.begin; row < window.rows.end; ++row) {
        const Row<T> some{widths_.data(), of.x.length + left, height_of(of, row, box), of.y.length[row], area,
                          static_cast<T>(rule_.least_union), g, nullptr, nullptr, cells};
        for (std::int64_t i = 0; i < cells; ++i)
          if (key_at(some, i) == most) taken_.push_back({&of, row, left + i, g});
      }
    }
    if (!rule_.only_first) return;
    const auto first = std::min_element(taken_.begin() + static_cast<std::ptrdiff_t>(before), taken_.end(),
                                        [](const Taken& a, const Taken& b) { return a.flat() < b.flat(); });
    taken_[before] = *first;
    taken_.resize(before + 1);
  }

  void write_all(bool all_taken, std::int64_t* matched, T* iou) const {
    for (const Class& of : tables_.classes)
      for (std::int64_t cell = 0; cell < of.x.cells * of.y.cells; ++cell) {
        const std::int64_t flat = of.begin + cell * of.cell_anchors;
        const T best = iou_of(best_[of.plane + cell]);
        const std::int64_t box = best > 0 ? index_[of.plane + cell] : 0;
        matched[flat] = all_taken ? taken(rule_, box) : result_of(rule_, best, box);
        if (iou != nullptr) iou[flat] = best;
      }
  }

  // All others lie below the lowest threshold.
  void write_visited(std::int64_t* matched) const {
    std::fill_n(matched, tables_.num_anchors, rule_.codes[0]);
    for (const Window& window : visited_) {
      const Class& of = *window.of;
      for (std::int64_t row = window.rows.begin; row < window.rows.end; ++row)
        for (std::int64_t column = window.columns.begin; column < window.columns.end; ++column) {
          const std::int64_t cell = row * of.x.cells + column;
          const T best = iou_of(best_[of.plane + cell]);
          if (best >= static_cast<T>(floor_))
            matched[of.begin + cell * of.cell_anchors] = result_of(rule_, best, std::int64_t{index_[of.plane + cell]});
        }
    }
  }

  // In the boxes' order, or the other way round: the last one that is written wins. Box `of_all` takes every anchor.
  void write_taken(bool every, std::int32_t of_all, std::int64_t* matched) {
    const auto write = [&](const Taken& one) {
      matched[one.flat()] = taken(rule_, rule_.gets == Gets::own ? own_box(one, every) : std::int64_t{one.box});
    };
    if (rule_.gets == Gets::own) {
      for (const Taken& one : taken_) write(one);
      return;
    }
    const auto later = std::upper_bound(taken_.begin(), taken_.end(), of_all,
                                        [](std::int32_t box, const Taken& one) { return box < one.box; });
    if (rule_.gets == Gets::last) {
      if (of_all >= 0) std::fill_n(matched, tables_.num_anchors, taken(rule_, of_all));
      std::for_each(later, taken_.end(), write);
      return;
    }
    const auto end = of_all < 0 ? taken_.end() : later;
    if (of_all >= 0) std::fill_n(matched, tables_.num_anchors, taken(rule_, of_all));
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
  std::vector<Signed<T>> best_, most_of_class_, keys_;
  std::vector<std::int32_t> index_;
  std::vector<T> widths_, columns_;
  std::vector<Window> visited_;
  std::vector<Taken> taken_;
};

// Pair by pair.
template <typename T>
void match_pairs(const Pyramid& pyramid, const Rule& rule, const Box<T>* boxes, std::int64_t count,
                 std::int64_t* matched, T* iou) {
  std::vector<Key<T>> best(static_cast<std::size_t>(count), 0);
  std::vector<std::int64_t> first(static_cast<std::size_t>(count), 0);
  std::vector<T> areas;
  for (std::int64_t g = 0; g < count; ++g) areas.push_back(area_of(boxes[g]));
  for (std::int64_t i = 0; i < pyramid.num_anchors; ++i) {
    const Box<float> anchor = box_at(pyramid, i);
    const float area = area_of(anchor);
    Key<T> most = 0;
    std::int64_t index = 0;
    for (std::int64_t g = 0; g < count; ++g) {
      const Key<T> key = key_of(iou_of(rule, boxes[g], areas[g], anchor, area));
      if (key > most) most = key, index = g;
      if (key > best[g]) best[g] = key, first[g] = i;
    }
    matched[i] = result_of(rule, iou_of_key(most), index);
    if (iou != nullptr) iou[i] = iou_of_key(most);
  }
  if (rule.gets == Gets::nothing) return;
  for (std::int64_t i = 0; i < pyramid.num_anchors; ++i) {
    const Box<float> anchor = box_at(pyramid, i);
    const float area = area_of(anchor);
    std::int64_t own = 0, of = -1;
    Key<T> most = 0;
    for (std::int64_t g = 0; g < count; ++g) {
      const T value = iou_of(rule, boxes[g], areas[g], anchor, area);
      const Key<T> key = key_of(value);
      if (key > most) most = key, own = g;
      if (!takes(rule, iou_of_key(best[g]))) continue;
      const bool is_taken = rule.only_first ? first[g] == i : value == iou_of_key(best[g]);
      if (is_taken && (of < 0 || rule.gets != Gets::first)) of = g;
    }
    if (of >= 0) matched[i] = taken(rule, rule.gets == Gets::own ? own : of);
  }
}

template <typename T>
bool is_proper(const Box<T>& box) {
  const T most = std::numeric_limits<T>::max(), area = area_of(box);
  return box.x1 >= -most && box.y1 >= -most && box.x2 <= most && box.y2 <= most && box.x1 <= box.x2 &&
         box.y1 <= box.y2 && area <= most;
}

}  // namespace

template <typename T>
void match_cpu(const Pyramid& pyramid, const Rule& rule, const Box<T>* boxes, const std::int64_t* begins,
               const Matches<T>& matches, std::int64_t begin, std::int64_t end) {
  const Tables tables = tables_of(pyramid);
  bool has_flat_anchor = false;
  for (const Class& of : tables.classes) has_flat_anchor = has_flat_anchor || !(of.least_area > 0);
  Windows<T> windows(tables, rule);
  for (std::int64_t image = begin; image < end; ++image) {
    const Box<T>* const own = boxes + begins[image];
    const std::int64_t count = begins[image + 1] - begins[image];
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
    if (proper && pyramid.num_anchors > 0)
      windows.match(own, count, false, matched, iou);
    else
      match_pairs(pyramid, rule, own, count, matched, iou);
  }
}

template void match_cpu(const Pyramid&, const Rule&, const Box<float>*, const std::int64_t*, const Matches<float>&,
                        std::int64_t, std::int64_t);
template void match_cpu(const Pyramid&, const Rule&, const Box<double>*, const std::int64_t*, const Matches<double>&,
                        std::int64_t, std::int64_t);

}  // namespace anchor_ext
