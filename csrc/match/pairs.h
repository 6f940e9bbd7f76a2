// Matching pair by pair: as right for boxes and anchors of any kind as it is slow.
#pragma once

#include <vector>

#include "match/match.h"

namespace anchor_ext {

// One image.
template <typename T>
void match_pairs(const Pyramid& pyramid, const Rule& rule, const Box<T>* boxes, std::int64_t count,
                 const Regions<T>& regions, std::int64_t* matched, T* iou) {
  std::vector<Key<T>> best(static_cast<std::size_t>(count), 0);
  std::vector<std::int64_t> first(static_cast<std::size_t>(count), -1);
  std::vector<T> areas;
  for (std::int64_t g = 0; g < count; ++g) areas.push_back(area_of(boxes[g]));
  for (std::int64_t i = 0; i < pyramid.num_anchors; ++i) {
    const Box<float> anchor = box_at(pyramid, i);
    const float area = area_of(anchor);
    if (is_ignored(rule, regions, anchor, area)) {
      matched[i] = kIgnored;
      if (iou != nullptr) iou[i] = -1;
      continue;
    }
    Key<T> most = 0;
    std::int64_t index = 0;
    for (std::int64_t g = 0; g < count; ++g) {
      const Key<T> key = key_of(iou_of(rule, boxes[g], areas[g], anchor, area));
      if (key > most) most = key, index = g;
      if (key > best[g] || first[g] < 0) best[g] = key, first[g] = i;
    }
    matched[i] = result_of(rule, iou_of_key(most), index);
    if (iou != nullptr) iou[i] = iou_of_key(most);
  }
  if (rule.gets == Gets::nothing) return;
  for (std::int64_t i = 0; i < pyramid.num_anchors; ++i) {
    const Box<float> anchor = box_at(pyramid, i);
    const float area = area_of(anchor);
    if (is_ignored(rule, regions, anchor, area)) continue;
    std::int64_t own = 0, taker = -1;
    Key<T> most = 0;
    for (std::int64_t g = 0; g < count; ++g) {
      const T value = iou_of(rule, boxes[g], areas[g], anchor, area);
      const Key<T> key = key_of(value);
      if (key > most) most = key, own = g;
      if (!takes(rule, iou_of_key(best[g]))) continue;
      const bool is_taken = rule.only_first ? first[g] == i : value == iou_of_key(best[g]);
      if (is_taken && (taker < 0 || rule.gets != Gets::first)) taker = g;
    }
    if (taker >= 0) matched[i] = low_quality_result(rule, rule.gets == Gets::own ? own : taker);
  }
}

}  // namespace anchor_ext
