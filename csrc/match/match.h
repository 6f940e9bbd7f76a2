// Matching: to which box each anchor belongs, without a matrix of anchors by boxes, and without the anchors.
//
// Anchors are rounded to float32, as generate() gives them. The arithmetic is that of the boxes' type T, float or
// double: w = max(0, min(x2) - max(x1)), h alike, IoU = w * h / ((area_box + area_anchor) - w * h), each result rounded
// once, which is the order of torchvision, detectron2, mmdet, effdet and others.
#pragma once

#include <cstdint>

#include "core/box.h"
#include "match/rule.h"

namespace anchor_ext {

inline constexpr int kMaxMatchedImages = 512;  // of one launch: where their boxes begin is a kernel parameter

// The boxes of a batch, one image's after another's.
struct Counts {
  std::int32_t num_images;
  std::int32_t begins[kMaxMatchedImages + 1];  // of each image's boxes among all; and where the last ones end
};

// The results, [images, num_anchors] each; `iou` may be null.
template <typename T>
struct Matches {
  std::int64_t* matched;
  T* iou;
};

// This and the functions below accept any boxes and anchors: inverted, infinite or NaN ones too.
template <typename T>
ANCHOR_EXT_HD T intersection_of(const Box<T>& box, const Box<float>& anchor) {
  const T width = minimum<T>(box.x2, anchor.x2) - maximum<T>(box.x1, anchor.x1);
  const T height = minimum<T>(box.y2, anchor.y2) - maximum<T>(box.y1, anchor.y1);
  return multiply_rounded(width < 0 ? 0 : width, height < 0 ? 0 : height);
}

template <typename T>
ANCHOR_EXT_HD T iou_of(const Rule& rule, const Box<T>& box, T area_box, const Box<float>& anchor, float area_anchor) {
  const T inter = intersection_of(box, anchor);
  T union_area = (area_box + static_cast<T>(area_anchor)) - inter;
  const T least = static_cast<T>(rule.least_union);
  if (least > 0) union_area = union_area < least ? least : union_area;
  if (rule.quotient == Quotient::zero_if_apart && !(inter > 0)) return 0;
  if (rule.quotient == Quotient::zero_if_nothing && inter == 0) return 0;
  return divide_as(inter, union_area);
}

// Regions whose anchors are ignored: of one image.
template <typename T>
struct Regions {
  const Box<T>* boxes;
  std::int32_t count;
};

// Whether the greatest part that any region has of the anchor, or the anchor of a region, exceeds the rule's. If one is
// NaN the anchor is not ignored, as by torch's max. kLeast is the eps of mmdet's overlaps.
template <typename T>
ANCHOR_EXT_HD bool is_ignored(const Rule& rule, const Regions<T>& regions, const Box<float>& anchor,
                              float area_anchor) {
  constexpr T kLeast = static_cast<T>(1e-6);
  bool is_any = false;
  for (std::int32_t i = 0; i < regions.count; ++i) {
    const Box<T>& region = regions.boxes[i];
    const T whole = rule.part_of_region ? area_of(region) : static_cast<T>(area_anchor);
    const T part = divide_as(intersection_of(region, anchor), whole < kLeast ? kLeast : whole);
    if (part != part) return false;
    is_any = is_any || part > static_cast<T>(rule.ignored_from);
  }
  return is_any;
}

// An IoU as an integer that orders as torch's maximum does: NaN is the largest, and -0 is 0.
ANCHOR_EXT_HD std::uint32_t key_of(float iou) { return iou != iou ? 0x7fc00000u : bits_of(iou + 0.0f); }
ANCHOR_EXT_HD std::uint64_t key_of(double iou) {
  return iou != iou ? std::uint64_t{0x7ff8000000000000} : static_cast<std::uint64_t>(bits_of(iou + 0.0));
}
ANCHOR_EXT_HD float iou_of_key(std::uint32_t key) { return float_of(key); }
ANCHOR_EXT_HD double iou_of_key(std::uint64_t key) { return double_of(static_cast<std::int64_t>(key)); }

template <typename T>
using Key = decltype(key_of(T{}));

// Boxes of a batch, and where each image's begin among all: on the CPU [images + 1], on CUDA to be taken along.
template <typename T, typename Begins>
struct Ragged {
  const Box<T>* boxes;
  Begins begins;
};
template <typename T>
using CpuBoxes = Ragged<T, const std::int64_t*>;
template <typename T>
using CudaBoxes = Ragged<T, Counts>;

// Matches of the images begin .. end-1, on the calling thread. `regions` are those whose anchors are ignored.
template <typename T>
void match_cpu(const Pyramid& pyramid, const Rule& rule, const CpuBoxes<T>& boxes, const CpuBoxes<T>& regions,
               const Matches<T>& matches, std::int64_t begin, std::int64_t end);

// Of a batch, on `stream`: two launches; three where boxes take their first anchors alone, one where they take none.
// `best` is memory of the device, 16 bytes per box.
template <typename T>
void match_cuda(const Pyramid& pyramid, const Rule& rule, const CudaBoxes<T>& boxes, const CudaBoxes<T>& regions,
                const Matches<T>& matches, void* best, int device, void* stream);

}  // namespace anchor_ext
