// What makes a match of an IoU, in every framework's way: plain data, which reaches a device with a launch.
//
// Per anchor the best IoU is looked up in `codes`; its box is the first that has it. Then every box may take the
// anchors whose IoU with it is its greatest: the low-quality rule.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/pyramid.h"

namespace anchor_ext {

inline constexpr int kMaxThresholds = 8;
inline constexpr std::int64_t kMatched = INT64_MIN;                     // as a code: the box itself
inline constexpr std::int64_t kIgnored = -2;                            // the result of an anchor that is ignored
inline constexpr std::int64_t kMaxBoxes = (std::int64_t{1} << 22) - 1;  // of an image: those of a launch fit 32 bits

// What the IoU is where the union is nothing, or next to it.
enum class Quotient : std::int32_t {
  plain,            // intersection / union, also where that is 0 / 0
  zero_if_apart,    // 0 unless the intersection is > 0
  zero_if_nothing,  // 0 where the intersection is 0
};

// What an anchor gets that the low-quality rule gives to some box.
enum class Gets : std::int32_t {
  nothing,  // there is no such rule
  own,      // the box that is the anchor's own best
  last,     // the last box that takes it
  first,    // the first one
};

struct Rule {
  Quotient quotient;
  double least_union;
  std::int32_t num_thresholds;
  double thresholds[kMaxThresholds];       // ascending
  std::int64_t codes[kMaxThresholds + 1];  // of IoUs below the first, from the first to the second, ...
  std::int64_t code_of_nan;
  Gets gets;
  bool only_first;      // a box takes the first anchor that has its best IoU, not all that have it
  bool needs_overlap;   // a box whose best IoU is 0 takes none
  double least;         // nor does one whose best IoU is less
  double ignored_from;  // an anchor is ignored if a region covers a greater part of it; 0: none is
  bool part_of_region;  // if the part of the region that the anchor covers is greater
  // The result is box + 2**32 * bin, where bin indexes `codes`; of NaN it is num_thresholds + 1, of an anchor that some
  // box takes num_thresholds + 2.
  bool packs_bin;
};

// "match/1;key=value;...", as docs/operators.md has it. Throws std::invalid_argument.
ANCHOR_EXT_API Rule rule_of(std::string_view text);

template <typename T>
ANCHOR_EXT_HD std::int32_t bin_of(const Rule& rule, T iou) {
  if (iou != iou) return rule.num_thresholds + 1;
  std::int32_t bin = 0;
  for (std::int32_t i = 0; i < rule.num_thresholds; ++i) bin += iou >= static_cast<T>(rule.thresholds[i]);
  return bin;
}

// The result of an anchor whose best box and IoU these are, without the low-quality rule.
template <typename T>
ANCHOR_EXT_HD std::int64_t result_of(const Rule& rule, T iou, std::int64_t box) {
  const std::int32_t bin = bin_of(rule, iou);
  if (rule.packs_bin) return box + (static_cast<std::int64_t>(bin) << 32);
  const std::int64_t code = bin > rule.num_thresholds ? rule.code_of_nan : rule.codes[bin];
  return code == kMatched ? box : code;
}

ANCHOR_EXT_HD std::int64_t result_without_boxes(const Rule& rule) { return rule.packs_bin ? 0 : -1; }

// The result of an anchor that some box takes by the low-quality rule.
ANCHOR_EXT_HD std::int64_t low_quality_result(const Rule& rule, std::int64_t box) {
  return rule.packs_bin ? box + (static_cast<std::int64_t>(rule.num_thresholds + 2) << 32) : box;
}

// Whether a box of this best IoU takes anchors at all.
template <typename T>
ANCHOR_EXT_HD bool takes(const Rule& rule, T best) {
  if (best != best && rule.code_of_nan != kMatched) return false;
  return rule.gets != Gets::nothing && !(best < static_cast<T>(rule.least)) && !(rule.needs_overlap && !(best > 0));
}

}  // namespace anchor_ext
