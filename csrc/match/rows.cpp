#include "match/rows.h"

#include "core/clones.h"

namespace anchor_ext {
namespace {

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
    const T union_area = (area + static_cast<T>(lengths[i] * length)) - inter;
    const auto key = static_cast<Signed<T>>(bits_of(inter / (union_area < least ? least : union_area)));
    const Signed<T> old = best[i];
    best[i] = key > old ? key : old;
    index[i] = key > old ? box : index[i];
    most = key > most ? key : most;
  }
  return most;
}

template <typename T>
ANCHOR_EXT_INLINE void overlap_all(const float* __restrict low, const float* __restrict high, T box_low, T box_high,
                                   std::int64_t cells, T* __restrict out) {
  for (std::int64_t i = 0; i < cells; ++i) {
    const T begin = low[i] > box_low ? T{low[i]} : box_low, end = high[i] < box_high ? T{high[i]} : box_high;
    const T length = end - begin;
    out[i] = length > 0 ? length : 0;
  }
}

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
    const T union_area = (boxes.area[g] + area) - inter;
    out[g] = static_cast<Signed<T>>(bits_of(inter / (union_area < least_union ? least_union : union_area)));
  }
}

template <typename T>
ANCHOR_EXT_INLINE T bound_all(const Shapes<T> grids, T width, T height, T area, T* __restrict out) {
  T greatest = 0;
  for (std::int64_t c = 0; c < grids.count; ++c) {
    const T inter =
        (width < grids.width[c] ? width : grids.width[c]) * (height < grids.height[c] ? height : grids.height[c]);
    const T bound = inter / ((area + grids.area[c]) - inter);
    out[c] = bound;
    greatest = bound > greatest ? bound : greatest;
  }
  return greatest;
}

}  // namespace

ANCHOR_EXT_CLONES std::int32_t update(const Row<float>& row) { return update_row(row); }
ANCHOR_EXT_CLONES std::int64_t update(const Row<double>& row) { return update_row(row); }

ANCHOR_EXT_CLONES void overlaps(const float* low, const float* high, float box_low, float box_high, std::int64_t cells,
                                float* out) {
  overlap_all(low, high, box_low, box_high, cells, out);
}
ANCHOR_EXT_CLONES void overlaps(const float* low, const float* high, double box_low, double box_high,
                                std::int64_t cells, double* out) {
  overlap_all(low, high, box_low, box_high, cells, out);
}

ANCHOR_EXT_CLONES void all_keys(const Columns<float>& boxes, const Box<float>& anchor, float least, std::int32_t* out) {
  keys_of_boxes(boxes, anchor, least, out);
}
ANCHOR_EXT_CLONES void all_keys(const Columns<double>& boxes, const Box<float>& anchor, double least,
                                std::int64_t* out) {
  keys_of_boxes(boxes, anchor, least, out);
}

ANCHOR_EXT_CLONES float bounds(const Shapes<float>& grids, float width, float height, float area, float* out) {
  return bound_all(grids, width, height, area, out);
}
ANCHOR_EXT_CLONES double bounds(const Shapes<double>& grids, double width, double height, double area, double* out) {
  return bound_all(grids, width, height, area, out);
}

}  // namespace anchor_ext
