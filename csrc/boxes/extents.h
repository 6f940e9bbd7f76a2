// Anchors along either axis, as decoding needs them, for many that follow one another: tables per column and per row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "boxes/boxes.h"

namespace anchor_ext {

inline constexpr int kCoded = 256;  // anchors that are taken together

// Of so many anchors the centres and the sides, along x and along y.
template <typename C>
struct alignas(64) ExtentBlock {
  C centres[2][kCoded], sides[2][kCoded];

  void set(int i, int axis, const Extent<C>& extent) {
    centres[axis][i] = extent.centre;
    sides[axis][i] = extent.side;
  }
};

template <typename C>
class Extents {
 public:
  Extents(const Pyramid& pyramid, const Coder& coder) : pyramid_(pyramid), levels_(pyramid.num_levels) {
    const bool xyxy = pyramid.layout.along_x == kXyxy.along_x;
    for (std::int32_t l = 0; l < pyramid.num_levels; ++l) {
      const Level& level = pyramid.levels[l];
      for (int axis = 0; axis < 2; ++axis) {
        const Side& side = axis == 0 ? level.x : level.y;
        const int low = (axis == 0) == xyxy ? 0 : 1;
        Axis& to = levels_[l].axes[axis];
        to.centres.resize(static_cast<std::size_t>(side.cells * level.num_cell_anchors));
        to.sides.resize(to.centres.size());
        for (std::int64_t i = 0; i < side.cells; ++i) fill(level, side, low, i, coder, to);
      }
    }
  }

  // Those of the anchors from `first` on, at most kCoded of them.
  void copy(std::int64_t first, std::int64_t count, ExtentBlock<C>& to) const {
    for (std::int64_t done = 0; done < count;) {
      const Position at = locate(pyramid_, first + done);
      const Level& level = pyramid_.levels[at.level];
      const std::int64_t of_cell = level.num_cell_anchors, of_row = level.x.cells * of_cell;
      const std::int64_t column = at.column * of_cell + at.cell_anchor;
      const std::int64_t some = std::min(of_row - column, count - done);
      const Axis &x = levels_[at.level].axes[0], &y = levels_[at.level].axes[1];
      std::copy_n(x.centres.data() + column, some, to.centres[0] + done);
      std::copy_n(x.sides.data() + column, some, to.sides[0] + done);
      repeat(y.centres.data() + at.row * of_cell, of_cell, at.cell_anchor, some, to.centres[1] + done);
      repeat(y.sides.data() + at.row * of_cell, of_cell, at.cell_anchor, some, to.sides[1] + done);
      done += some;
    }
  }

 private:
  struct Axis {
    std::vector<C> centres, sides;  // by cell and cell anchor
  };
  struct Axes {
    Axis axes[2];
  };

  void fill(const Level& level, const Side& side, int low, std::int64_t cell, const Coder& coder, Axis& to) const {
    const double at = centre<false>(pyramid_.arithmetic, side, cell);
    for (std::int32_t a = 0; a < level.num_cell_anchors; ++a) {
      const double* const own = cell_anchor_at(pyramid_, level, a);
      const auto end = [&](int k) {
        return static_cast<C>(narrowed(pyramid_.plain ? component<true>(pyramid_, own[k], k, at, at)
                                                      : component<false>(pyramid_, own[k], k, at, at)));
      };
      const Extent<C> extent = extent_of(coder.means_of_ends_decode, end(low), end(low + 2));
      const auto i = static_cast<std::size_t>(cell * level.num_cell_anchors + a);
      to.centres[i] = extent.centre;
      to.sides[i] = extent.side;
    }
  }

  // `count` numbers of those `period` ones over and over, from number `from` on.
  static void repeat(const C* numbers, std::int64_t period, std::int64_t from, std::int64_t count, C* out) {
    std::int64_t done = std::min(period - from, count);
    std::copy_n(numbers + from, done, out);
    for (; done < count && done < period; ++done) out[done] = numbers[done + from - period];
    for (; done < count;) {  // what is there is as long as whole periods
      const std::int64_t some = std::min(done / period * period, count - done);
      std::copy_n(out + done % period, some, out + done);
      done += some;
    }
  }

  const Pyramid& pyramid_;
  std::vector<Axes> levels_;
};

}  // namespace anchor_ext
