// Matching the other way round: the anchor that fits a box best, of all that there are.
#pragma once

#include <cstdint>

#include "match/match.h"
#include "match/tables.h"

namespace anchor_ext {

// Per box.
template <typename T>
struct BestAnchors {
  T* iou;               // the greatest that any anchor has; NaN counts as 0
  std::int64_t* index;  // the first anchor that has it; -1 where it is 0
};

template <typename T>
void best_anchors_cpu(const Pyramid& pyramid, const Tables& tables, const Box<T>* boxes, const BestAnchors<T>& best,
                      std::int64_t begin, std::int64_t end);

}  // namespace anchor_ext
