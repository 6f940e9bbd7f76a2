// Anchors by cell anchor: each level's cell anchor over the level's grid.
#pragma once

#include <cstdint>
#include <vector>

#include "core/pyramid.h"

namespace anchor_ext {

// One axis of such a grid: the anchors' ends and lengths, cell by cell.
struct Axis {
  const float *low, *high, *length;
  std::int64_t cells;
  float shortest, longest;
  bool ascends, proper;  // no anchor ends before its neighbour; each is finite, and none is inverted
  double first_low, first_high, cells_per_pixel;
};

// Cells begin .. end-1.
struct Range {
  std::int32_t begin, end;
};

struct CellAnchorGrid {
  Axis x, y;
  std::int64_t begin;         // flat index of its first anchor
  std::int64_t cell_anchors;  // of its level: the distance of its anchors
  std::int64_t plane;         // where its anchors lie one after another, row by row
  double least_area;
  bool may_be_flat;  // an anchor's area may be 0, in float32
};

struct Tables {
  std::vector<float> numbers;  // of the axes
  std::vector<CellAnchorGrid> grids;
  std::int64_t num_anchors, widest;
  bool proper;  // every anchor is finite, and none is inverted
};

Tables tables_of(const Pyramid& pyramid);

// The cells whose anchors reach up to `least` at least, and begin at `most` at the latest.
Range range_of(const Axis& axis, double least, double most);

}  // namespace anchor_ext
