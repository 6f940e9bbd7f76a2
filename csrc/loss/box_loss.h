// The box loss of positive anchors: their targets are made where they are used, and never stored.
//
// Whatever the deltas' type, an anchor's loss and its derivatives are computed in float64: positives are few.
// Smooth L1 (Girshick, "Fast R-CNN", 2015): with d = delta - target, the loss is d**2 / (2 beta) where |d| < beta, else
// |d| - beta / 2. GIoU (Rezatofighi et al., "Generalized intersection over union", 2019) of the decoded boxes: the loss
// is 1 - I / (U + eps) + (A - U) / (A + eps), with the intersection I, the union U and the area A of the smallest box
// around both.
//
// An image's anchors are taken in tiles of 256, whose losses are added by pairs.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/box.h"
#include "core/coder.h"
#include "loss/sums.h"

namespace anchor_ext {

enum class BoxLossKind : std::int32_t { smooth_l1, giou };

inline constexpr int kAnchorsOfTile = 256;

struct BoxLoss {
  BoxLossKind kind;
  double beta;  // 0: L1
  Coder coder;
  std::int64_t anchors;
  std::int32_t images;
  bool normalize;
};

// Throws std::invalid_argument.
BoxLossKind box_loss_kind_of(std::string_view name);

ANCHOR_EXT_HD std::int64_t tiles_of_image(const BoxLoss& loss) {
  return (loss.anchors + kAnchorsOfTile - 1) / kAnchorsOfTile;
}
ANCHOR_EXT_HD Summation summation_of(const BoxLoss& loss) {
  return {tiles_of_image(loss), loss.anchors, loss.images, loss.normalize};
}

template <typename T>
struct BoxLossTensors {
  const T* deltas;              // [images, anchors, 4]
  const std::int64_t* matched;  // [images, anchors]: the index of a box among the image's, or negative
  const Box<double>* boxes;     // of all images
};

// On the calling thread: the sums of some tiles of all images one after another; and the gradients of the deltas of
// some tiles' anchors. `grad` is the loss's, of its type.
template <typename T>
void box_loss_tiles_cpu(const Pyramid& pyramid, const BoxLoss& loss, const BoxLossTensors<T>& tensors,
                        const BoxBegins& begins, double* sums, std::int64_t begin, std::int64_t end);
template <typename T>
void box_loss_gradient_cpu(const Pyramid& pyramid, const BoxLoss& loss, const BoxLossTensors<T>& tensors,
                           const BoxBegins& begins, double grad, const double* weights, T* out, std::int64_t begin,
                           std::int64_t end);

// On `stream`, one launch each; `sums` and `positives` are memory of the device, a number each per tile.
template <typename T>
void box_loss_tiles_cuda(const Pyramid& pyramid, const BoxLoss& loss, const BoxLossTensors<T>& tensors,
                         const BoxBegins& begins, double* sums, std::int32_t* positives, int device, void* stream);
template <typename T, typename C>
void box_loss_gradient_cuda(const Pyramid& pyramid, const BoxLoss& loss, const BoxLossTensors<T>& tensors,
                            const BoxBegins& begins, const C* grad, const double* weights, T* out, int device,
                            void* stream);

// What kernels of either kind do with one anchor.

// A loss and its derivatives by the four deltas.
struct LossOf {
  double loss, by[4];
};

// A number's loss, and its derivative.
struct Number {
  double loss, by;
};
ANCHOR_EXT_HD Number smooth_l1_of(double beta, double difference) {
  const double magnitude = difference < 0 ? -difference : difference;
  if (magnitude < beta) return {0.5 * multiply_rounded(difference, difference) / beta, difference / beta};
  return {magnitude - 0.5 * beta, difference > 0 ? 1 : difference < 0 ? -1 : difference};
}

// The part of a maximum's derivative that is a's: half where both are alike, as torch has it.
ANCHOR_EXT_HD double part_of_greater(double a, double b) { return a > b ? 1 : a == b ? 0.5 : a < b ? 0 : a + b; }

// 1 - GIoU by the ends of a box, along x and y, beside those of the truth. kEps is torchvision's.
ANCHOR_EXT_HD LossOf giou_of(const Ends<double> (&box)[2], const Ends<double> (&truth)[2]) {
  constexpr double kEps = 1e-7;
  double inner[2], outer[2], sides[2], of_truth[2];
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int axis = 0; axis < 2; ++axis) {
    const Ends<double>&a = box[axis], &b = truth[axis];
    inner[axis] = minimum(a.high, b.high) - maximum(a.low, b.low);
    outer[axis] = maximum(a.high, b.high) - minimum(a.low, b.low);
    sides[axis] = a.high - a.low;
    of_truth[axis] = b.high - b.low;
  }
  const bool overlaps = inner[0] > 0 && inner[1] > 0;
  const double inter = overlaps ? multiply_rounded(inner[0], inner[1]) : 0;
  const double both = multiply_rounded(sides[0], sides[1]) + multiply_rounded(of_truth[0], of_truth[1]) - inter;
  const double around = multiply_rounded(outer[0], outer[1]);
  LossOf made{};
  made.loss = 1 - (inter / (both + kEps) - (around - both) / (around + kEps));
  const double by_union = inter / multiply_rounded(both + kEps, both + kEps) - 1 / (around + kEps);
  const double by_inter = overlaps ? -1 / (both + kEps) - by_union : 0;
  const double by_around = (both + kEps) / multiply_rounded(around + kEps, around + kEps);
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int axis = 0; axis < 2; ++axis) {
    const int other = 1 - axis;
    const Ends<double>&a = box[axis], &b = truth[axis];
    const double side = multiply_rounded(by_union, sides[other]);
    const double within = multiply_rounded(by_inter, inner[other]), far = multiply_rounded(by_around, outer[other]);
    made.by[axis] = -side - multiply_rounded(part_of_greater(a.low, b.low), within) -
                    multiply_rounded(part_of_greater(b.low, a.low), far);
    made.by[axis + 2] = side + multiply_rounded(part_of_greater(b.high, a.high), within) +
                        multiply_rounded(part_of_greater(a.high, b.high), far);
  }
  return made;
}

// By the anchor's delta.
ANCHOR_EXT_HD LossOf box_loss_of(const BoxLoss& loss, const Box<float>& given, const Box<double>& box,
                                 const double (&delta)[4]) {
  const Coder& coder = loss.coder;
  const Box<double> anchor{given.x1, given.y1, given.x2, given.y2};
  LossOf made{};
  Ends<double> ends[2], truth[2];
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int axis = 0; axis < 2; ++axis) {
    const AxisCoder<double> own = along<double>(coder, axis);
    const Delta<double> said = delta_along(coder, axis, delta);
    const Ends<double> at = ends_along<double>(anchor, axis);
    truth[axis] = ends_along<double>(box, axis);
    if (loss.kind == BoxLossKind::giou) {
      ends[axis] =
          decoded(coder.scaling, own, extent_of(coder.means_of_ends_decode, at.low, at.high), said.shift, said.size);
      continue;
    }
    const Delta<double> target =
        encoded(coder.scaling, own, encoding(coder.means_of_ends_encode, own, at, truth[axis]));
    const Number shift = smooth_l1_of(loss.beta, said.shift - target.shift);
    const Number size = smooth_l1_of(loss.beta, said.size - target.size);
    made.loss += shift.loss + size.loss;
    set_along(coder, axis, Delta<double>{shift.by, size.by}, made.by);
  }
  if (loss.kind == BoxLossKind::smooth_l1) return made;
  const LossOf by_ends = giou_of(ends, truth);
  made.loss = by_ends.loss;
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int axis = 0; axis < 2; ++axis) {
    const Delta<double> said = delta_along(coder, axis, delta);
    const Ends<double> at = ends_along<double>(anchor, axis);
    const Delta<double> by = decoded_gradient(
        coder.scaling, along<double>(coder, axis), extent_of(coder.means_of_ends_decode, at.low, at.high), said.shift,
        said.size, limits_of<double>(Limited::not_at_all, 0), Ends<double>{by_ends.by[axis], by_ends.by[axis + 2]});
    set_along(coder, axis, by, made.by);
  }
  return made;
}

// Of an anchor of an image whose boxes are `begin` to `end` - 1 among all; NaN where `matched` is none of them.
template <typename T>
ANCHOR_EXT_HD LossOf box_loss_at(const Pyramid& pyramid, const BoxLoss& loss, const BoxLossTensors<T>& tensors,
                                 std::int64_t begin, std::int64_t end, std::int64_t image, std::int64_t anchor) {
  const std::int64_t item = image * loss.anchors + anchor, box = tensors.matched[item];
  LossOf made{};
  if (box < 0) return made;
  if (box >= end - begin) {
    const double none = double_of(kNanBits);
    return {none, {none, none, none, none}};
  }
  double delta[4];
  for (int k = 0; k < 4; ++k) delta[k] = widened(tensors.deltas[4 * item + k]);
  return box_loss_of(loss, box_at(pyramid, anchor), tensors.boxes[begin + box], delta);
}

}  // namespace anchor_ext
