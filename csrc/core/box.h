// Boxes x1, y1, x2, y2, of whatever layout the anchors are, and arithmetic on them.
#pragma once

#include <cstdint>

#include "core/pyramid.h"

namespace anchor_ext {

template <typename T>
struct Box {
  T x1, y1, x2, y2;
};

// Anchors of this layout are boxes.
inline bool is_box(const Layout& layout) {
  return layout.components == 4 && layout.low == kXyxy.low && layout.high == kXyxy.high;
}

template <typename T>
ANCHOR_EXT_HD T minimum(T a, T b) {  // as torch: NaN, if either is
  return a != a ? a : b != b ? b : a < b ? a : b;
}
template <typename T>
ANCHOR_EXT_HD T maximum(T a, T b) {
  return a != a ? a : b != b ? b : a > b ? a : b;
}

ANCHOR_EXT_HD float divide_as(float a, float b) { return divide_rounded(a, b); }
ANCHOR_EXT_HD double divide_as(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __ddiv_rn(a, b);
#else
  return a / b;
#endif
}

template <typename T>
ANCHOR_EXT_HD T area_of(const Box<T>& box) {
  return multiply_rounded(box.x2 - box.x1, box.y2 - box.y1);
}

template <bool kPlain>
ANCHOR_EXT_HD Box<float> box_at(const Pyramid& pyramid, std::int64_t flat_index) {
  const Anchor anchor = anchor_at<kPlain>(pyramid, flat_index);
  const auto c = [&](int k) { return narrowed(anchor.components[k]); };
  return kPlain || pyramid.layout.along_x == kXyxy.along_x ? Box<float>{c(0), c(1), c(2), c(3)}
                                                           : Box<float>{c(1), c(0), c(3), c(2)};
}
ANCHOR_EXT_HD Box<float> box_at(const Pyramid& pyramid, std::int64_t flat_index) {
  return box_at<false>(pyramid, flat_index);
}

}  // namespace anchor_ext
