#include "match/tables.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace anchor_ext {
namespace {

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

}  // namespace

Range range_of(const Axis& axis, double least, double most) {
  if (!axis.ascends) return {0, static_cast<std::int32_t>(axis.cells)};
  const std::int64_t begin = first_where(axis.cells, std::ceil((least - axis.first_high) * axis.cells_per_pixel),
                                         [&](std::int64_t i) { return axis.high[i] >= least; });
  const std::int64_t end = first_where(axis.cells, std::floor((most - axis.first_low) * axis.cells_per_pixel) + 1,
                                       [&](std::int64_t i) { return axis.low[i] > most; });
  return {static_cast<std::int32_t>(begin), static_cast<std::int32_t>(std::max(begin, end))};
}

namespace {

void fill_axis(const Pyramid& pyramid, const Side& side, const double* centres, double low, double high, int k_low,
               int k_high, float* to, Axis& axis) {
  float* const lows = to;
  float* const highs = to + side.cells;
  float* const lengths = highs + side.cells;
  const auto at = [&](double of_cell_anchor, int k, double centre) {
    return narrowed(pyramid.plain ? component<true>(pyramid, of_cell_anchor, k, centre, centre)
                                  : component<false>(pyramid, of_cell_anchor, k, centre, centre));
  };
  for (std::int64_t i = 0; i < side.cells; ++i) {
    lows[i] = at(low, k_low, centres[i]);
    highs[i] = at(high, k_high, centres[i]);
    lengths[i] = highs[i] - lows[i];
  }
  constexpr float kMost = std::numeric_limits<float>::max();
  axis = {lows, highs, lengths, side.cells, lengths[0], lengths[0], true, true, lows[0], highs[0], 0};
  for (std::int64_t i = 0; i < side.cells; ++i) {
    axis.shortest = std::min(axis.shortest, lengths[i]);
    axis.longest = std::max(axis.longest, lengths[i]);
    axis.proper = axis.proper && lows[i] >= -kMost && highs[i] <= kMost && lengths[i] >= 0;  // a NaN is neither
    if (i > 0) axis.ascends = axis.ascends && lows[i] >= lows[i - 1] && highs[i] >= highs[i - 1];
  }
  const double pixels = double{lows[side.cells - 1]} - lows[0];
  axis.cells_per_pixel = pixels > 0 ? static_cast<double>(side.cells - 1) / pixels : 0;
}

}  // namespace

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
      CellAnchorGrid made{};
      fill_axis(pyramid, level.x, centres_x.data(), cell_anchor[x], cell_anchor[x + 2], x, x + 2, to, made.x);
      to += 3 * level.x.cells;
      fill_axis(pyramid, level.y, centres_y.data(), cell_anchor[y], cell_anchor[y + 2], y, y + 2, to, made.y);
      to += 3 * level.y.cells;
      made.begin = level.begin + a;
      made.cell_anchors = level.num_cell_anchors;
      made.plane = plane;
      made.least_area = double{made.x.shortest} * made.y.shortest;
      made.may_be_flat = !(made.x.shortest * made.y.shortest > 0);
      tables.proper = tables.proper && made.x.proper && made.y.proper &&
                      made.x.longest * made.y.longest <= std::numeric_limits<float>::max();
      plane += level.x.cells * level.y.cells;
      tables.widest = std::max(tables.widest, level.x.cells);
      tables.grids.push_back(made);
    }
  }
  return tables;
}

}  // namespace anchor_ext
