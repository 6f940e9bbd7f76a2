// Boxes of deltas, and deltas of boxes: neither ever sees an anchor in memory.
//
// Anchors are rounded to float32, as generate() gives them. The arithmetic is that of the deltas or the boxes, float32
// or float64; that of float32 for deltas of 16 bits. Those for the CPU do items begin .. end-1 on the calling thread;
// those for CUDA launch one kernel on `stream` of `device`.
#pragma once

#include <cstdint>

#include "core/box.h"
#include "core/coder.h"

namespace anchor_ext {

// Whose deltas these are: of each image all anchors one after another, or those at its indices.
struct Items {
  std::int64_t images, of_image;
  Indices indices;  // [images, of_image], or null
};

// Where the images end: of all of them, or of each.
struct ImageSide {
  std::int64_t height, width;
};
struct ImageSides {
  const ImageSide* sides;
  std::int64_t count;  // 0: boxes are not limited; 1: the same for all images
};

inline constexpr int kMaxCodedImages = 512;  // of one launch: what is each image's own is a kernel parameter

// Boxes [images, of_image, 4] of deltas, and the gradient of these.
template <typename T>
void decode_cpu(const Pyramid& pyramid, const Coder& coder, const Items& items, const ImageSides& sides,
                const T* deltas, Computed<T>* out, std::int64_t begin, std::int64_t end);
template <typename T>
void decode_cuda(const Pyramid& pyramid, const Coder& coder, const Items& items, const ImageSides& sides,
                 const T* deltas, Computed<T>* out, int device, void* stream);
template <typename T>
void decode_gradient_cpu(const Pyramid& pyramid, const Coder& coder, const Items& items, const ImageSides& sides,
                         const Computed<T>* grad, const T* deltas, T* out, std::int64_t begin, std::int64_t end);
template <typename T>
void decode_gradient_cuda(const Pyramid& pyramid, const Coder& coder, const Items& items, const ImageSides& sides,
                          const Computed<T>* grad, const T* deltas, T* out, int device, void* stream);

// Deltas [count, 4] of boxes beside the anchors at indices, and the gradient of the boxes.
template <typename C>
void encode_cpu(const Pyramid& pyramid, const Coder& coder, const Indices& indices, const Box<C>* boxes, C* out,
                std::int64_t begin, std::int64_t end);
template <typename C>
void encode_cuda(const Pyramid& pyramid, const Coder& coder, const Indices& indices, std::int64_t count,
                 const Box<C>* boxes, C* out, int device, void* stream);
template <typename C>
void encode_gradient_cpu(const Pyramid& pyramid, const Coder& coder, const Indices& indices, const C* grad,
                         const Box<C>* boxes, Box<C>* out, std::int64_t begin, std::int64_t end);
template <typename C>
void encode_gradient_cuda(const Pyramid& pyramid, const Coder& coder, const Indices& indices, std::int64_t count,
                          const C* grad, const Box<C>* boxes, Box<C>* out, int device, void* stream);

// The boxes of a batch, one image's after another's, their classes, and whose each anchor is.
template <typename C>
struct Matched {
  const Box<C>* boxes;
  const std::int64_t* labels;
  const std::int64_t* matched;  // [images, num_anchors]: the index of a box among the image's, or negative
};

// What a loss needs of each anchor: the delta of its box, else 0; and its label, else what `matched` says.
template <typename C>
struct Targets {
  C* deltas;             // [images, num_anchors, 4]
  std::int64_t* labels;  // [images, num_anchors]
};

// `begins`: where each image's boxes begin among all, [images + 1].
template <typename C>
void targets_cpu(const Pyramid& pyramid, const Coder& coder, const Matched<C>& matched, const std::int64_t* begins,
                 const Targets<C>& targets, std::int64_t begin, std::int64_t end);
template <typename C>
void targets_cuda(const Pyramid& pyramid, const Coder& coder, const Matched<C>& matched, const std::int64_t* begins,
                  std::int64_t images, const Targets<C>& targets, int device, void* stream);

// What kernels of either kind do with one item.

template <typename C>
ANCHOR_EXT_HD Extent<C> extent_along(const Coder& coder, const Box<float>& anchor, int axis) {
  const Ends<C> ends = ends_along<C>(anchor, axis);
  return extent_of(coder.means_of_ends_decode, ends.low, ends.high);
}

template <typename C>
ANCHOR_EXT_HD void encode_one(const Coder& coder, const Box<float>& anchor, const Box<C>& box, C* delta) {
  for (int axis = 0; axis < 2; ++axis) {
    const AxisCoder<C> own = along<C>(coder, axis);
    const Encoded<C> at =
        encoding(coder.means_of_ends_encode, own, ends_along<C>(anchor, axis), ends_along<C>(box, axis));
    const Delta<C> made = encoded(coder.scaling, own, at);
    delta[shift_at(coder, axis)] = made.shift;
    delta[shift_at(coder, axis) + 2] = made.size;
  }
}

template <typename C>
ANCHOR_EXT_HD Box<C> encode_gradient_one(const Coder& coder, const Box<float>& anchor, const Box<C>& box,
                                         const C* grad) {
  Ends<C> made[2];
  for (int axis = 0; axis < 2; ++axis) {
    const AxisCoder<C> own = along<C>(coder, axis);
    const Encoded<C> at =
        encoding(coder.means_of_ends_encode, own, ends_along<C>(anchor, axis), ends_along<C>(box, axis));
    const int shift = shift_at(coder, axis);
    made[axis] = encoded_gradient(coder.scaling, own, at, Delta<C>{grad[shift], grad[shift + 2]});
  }
  return {made[0].low, made[1].low, made[0].high, made[1].high};
}

// Of an image with `count` boxes from `begin` on among all; NaN where `matched` is none of its boxes.
template <typename C>
ANCHOR_EXT_HD void target_of(const Pyramid& pyramid, const Coder& coder, const Matched<C>& matched,
                             const Targets<C>& targets, std::int64_t image, std::int64_t begin, std::int64_t count,
                             std::int64_t anchor) {
  const std::int64_t item = image * pyramid.num_anchors + anchor, box = matched.matched[item];
  const bool is_one = box >= 0 && box < count;
  C* const delta = targets.deltas + 4 * item;
  targets.labels[item] = is_one ? matched.labels[begin + box] : box;
  if (is_one) return encode_one(coder, box_at(pyramid, anchor), matched.boxes[begin + box], delta);
  const C value = box < 0 ? C{0} : static_cast<C>(double_of(kNanBits));
  for (int k = 0; k < 4; ++k) delta[k] = value;
}

}  // namespace anchor_ext
