// The innermost loops of matching on the CPU, of which compilers make vectors: boxes and anchors are proper here, and
// have an area or share nothing, so that it makes no difference what rule.quotient says. IoUs are keys, see match.h.
#pragma once

#include <cstdint>
#include <type_traits>

#include "match/match.h"

namespace anchor_ext {

template <typename T>
using Signed = std::make_signed_t<Key<T>>;  // which compilers make vectors of; keys are not negative

// Some anchors of a row beside a box.
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

// Updates the anchors' best IoU and box, and returns the greatest one of these.
std::int32_t update(const Row<float>& row);
std::int64_t update(const Row<double>& row);

template <typename T>
inline Signed<T> key_at(const Row<T>& row, std::int64_t i) {
  const T inter = row.widths[i] * row.height;
  const T union_area = (row.area + static_cast<T>(row.lengths[i] * row.length)) - inter;
  return static_cast<Signed<T>>(bits_of(inter / (union_area < row.least_union ? row.least_union : union_area)));
}

// How long the anchors' overlaps with a box are along one axis.
void overlaps(const float* low, const float* high, float box_low, float box_high, std::int64_t cells, float* out);
void overlaps(const float* low, const float* high, double box_low, double box_high, std::int64_t cells, double* out);

// The boxes, component by component, and the anchor that is to be compared with all of them.
template <typename T>
struct Columns {
  const T *x1, *y1, *x2, *y2, *area;
  std::int64_t count;
};

// The anchor's IoU with every box.
void all_keys(const Columns<float>& boxes, const Box<float>& anchor, float least_union, std::int32_t* out);
void all_keys(const Columns<double>& boxes, const Box<float>& anchor, double least_union, std::int64_t* out);

// What bounds the IoU of a cell anchor's grid with a box, wherever that lies: the longest sides, the least area.
template <typename T>
struct Shapes {
  const T *width, *height, *area;
  std::int64_t count;
};

// The bound of each, and of them the greatest.
float bounds(const Shapes<float>& grids, float width, float height, float area, float* out);
double bounds(const Shapes<double>& grids, double width, double height, double area, double* out);

}  // namespace anchor_ext
