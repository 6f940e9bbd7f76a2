// Deltas: where a box lies beside an anchor, and how large it is, in every framework's way. Plain data, which reaches a
// device with a launch, and the arithmetic along one axis.
//
// A box's centre is its low end + side / 2, or half the sum of its ends. A delta's shift is the way from the anchor's
// centre to the box's, in sides of the anchor; its size the logarithm of the box's side in sides of the anchor. Either
// is scaled: multiplied by a weight, or a mean subtracted from it and divided by a standard deviation. (Girshick et
// al., "Rich feature hierarchies for accurate object detection", 2014, appendix C.)
#pragma once

#include <cstdint>
#include <string_view>

#include "core/box.h"
#include "core/exp_log.h"

namespace anchor_ext {

// How deltas are scaled.
enum class Scaling : std::int32_t {
  none,     // weights of 1
  weights,  // a delta is weight * value
  moments,  // a delta is (value - mean) / deviation
};

// To what decoded boxes are limited, where they are.
enum class Limited : std::int32_t {
  not_at_all,
  both_ends,   // from 0 to the image's side
  outer_ends,  // low ends from 0 on, high ends up to the image's side
};

struct Coder {
  Scaling scaling;
  double scales[4], means[4];                       // of the shifts along x and y, of the sizes along x and y
  double most_size;                                 // of a scaled size: the logarithm of a ratio; infinite for none
  bool limits_small;                                // from -most_size on, too
  double most_shift;                                // pixels, either way; infinite for none
  bool means_of_ends_decode, means_of_ends_encode;  // as centres
  Limited limited;
  bool y_first;       // deltas are dy, dx, dh, dw
  double least_side;  // pixels, of boxes that are encoded; -infinite for none
  double addend;      // to the sides of boxes and anchors that are encoded
};

// "coder/1;key=value;...", as docs/operators.md has it. Throws std::invalid_argument.
ANCHOR_EXT_API Coder coder_of(std::string_view text);

// The index of an axis' shift among the deltas; that of its size is two more.
ANCHOR_EXT_HD int shift_at(const Coder& coder, int axis) { return coder.y_first ? 1 - axis : axis; }

// A delta along one axis.
template <typename C>
struct Delta {
  C shift, size;
};

// Without an index that is known at run time only, which would put the numbers in memory.
template <typename C>
ANCHOR_EXT_HD Delta<C> delta_along(const Coder& coder, int axis, const C (&delta)[4]) {
  const bool second = shift_at(coder, axis) == 1;
  return {second ? delta[1] : delta[0], second ? delta[3] : delta[2]};
}
template <typename C>
ANCHOR_EXT_HD void set_along(const Coder& coder, int axis, const Delta<C>& value, C (&delta)[4]) {
  const bool second = shift_at(coder, axis) == 1;
  delta[0] = second ? delta[0] : value.shift;
  delta[1] = second ? value.shift : delta[1];
  delta[2] = second ? delta[2] : value.size;
  delta[3] = second ? value.size : delta[3];
}

// The coder along one axis, in the deltas' arithmetic.
template <typename C>
struct AxisCoder {
  C scale_shift, scale_size, mean_shift, mean_size, most_size, least_size, most_shift, least_side, addend;
};

template <typename C>
ANCHOR_EXT_HD AxisCoder<C> along(const Coder& coder, int axis) {
  const auto most = static_cast<C>(coder.most_size);
  const C least = coder.limits_small ? -most : -static_cast<C>(double_of(kInfiniteBits));
  return {static_cast<C>(coder.scales[axis]),
          static_cast<C>(coder.scales[axis + 2]),
          static_cast<C>(coder.means[axis]),
          static_cast<C>(coder.means[axis + 2]),
          most,
          least,
          static_cast<C>(coder.most_shift),
          static_cast<C>(coder.least_side),
          static_cast<C>(coder.addend)};
}

// An anchor or a box along one axis.
template <typename C>
struct Extent {
  C centre, side;
};
template <typename C>
struct Ends {
  C low, high;
};

// An axis of an anchor, or of a box.
template <typename C, typename From>
ANCHOR_EXT_HD Ends<C> ends_along(const Box<From>& box, int axis) {
  return axis == 0 ? Ends<C>{static_cast<C>(box.x1), static_cast<C>(box.x2)}
                   : Ends<C>{static_cast<C>(box.y1), static_cast<C>(box.y2)};
}

template <typename C>
ANCHOR_EXT_HD Extent<C> extent_of(bool mean_of_ends, C low, C high) {
  const C side = high - low;
  return {mean_of_ends ? (low + high) * C{0.5} : low + C{0.5} * side, side};
}

// What a delta says, and the delta of what it is to say. Where the scaling is known to the compiler it branches
// nowhere.
template <typename C>
ANCHOR_EXT_HD C unscaled(Scaling scaling, C delta, C scale, C mean) {
  if (scaling == Scaling::none) return delta;
  return scaling == Scaling::weights ? divide_as(delta, scale) : multiply_rounded(delta, scale) + mean;
}

// The ends of the box that a delta of an anchor says.
template <typename C>
ANCHOR_EXT_HD Ends<C> decoded(Scaling scaling, const AxisCoder<C>& coder, const Extent<C>& anchor, C shift, C size) {
  const C ratio =
      limited(unscaled(scaling, size, coder.scale_size, coder.mean_size), coder.least_size, coder.most_size);
  const C way = multiply_rounded(unscaled(scaling, shift, coder.scale_shift, coder.mean_shift), anchor.side);
  const C centre = limited(way, -coder.most_shift, coder.most_shift) + anchor.centre;
  const C half = C{0.5} * multiply_rounded(exp_of(ratio), anchor.side);
  return {centre - half, centre + half};
}

// To what a box's ends are limited.
template <typename C>
struct Limits {
  C low_least, low_most, high_least, high_most;
};

template <typename C>
ANCHOR_EXT_HD Limits<C> limits_of(Limited limited, std::int64_t side) {
  const C most = static_cast<C>(side), infinite = static_cast<C>(double_of(kInfiniteBits));
  if (limited == Limited::both_ends) return {0, most, 0, most};
  if (limited == Limited::outer_ends) return {0, infinite, -infinite, most};
  return {-infinite, infinite, -infinite, infinite};
}

template <typename C>
ANCHOR_EXT_HD Ends<C> limited(const Ends<C>& ends, const Limits<C>& limits) {
  return {limited(ends.low, limits.low_least, limits.low_most),
          limited(ends.high, limits.high_least, limits.high_most)};
}

// Gradients of a delta, by those of the ends of what is decoded of it.
template <typename C>
ANCHOR_EXT_HD bool is_within(C value, C least, C most) {
  return value >= least && value <= most;
}

template <typename C>
ANCHOR_EXT_HD Delta<C> decoded_gradient(Scaling scaling, const AxisCoder<C>& coder, const Extent<C>& anchor, C shift,
                                        C size, const Limits<C>& limits, Ends<C> gradient) {
  const Ends<C> ends = decoded(scaling, coder, anchor, shift, size);
  const C low = is_within(ends.low, limits.low_least, limits.low_most) ? gradient.low : C{0};
  const C high = is_within(ends.high, limits.high_least, limits.high_most) ? gradient.high : C{0};
  const C ratio = unscaled(scaling, size, coder.scale_size, coder.mean_size);
  const C way = multiply_rounded(unscaled(scaling, shift, coder.scale_shift, coder.mean_shift), anchor.side);
  const bool moves = is_within(way, -coder.most_shift, coder.most_shift);
  const bool grows = is_within(ratio, coder.least_size, coder.most_size);
  const C by_way = moves ? multiply_rounded(low + high, anchor.side) : C{0};
  const C side = multiply_rounded(exp_of(limited(ratio, coder.least_size, coder.most_size)), anchor.side);
  const C by_ratio = grows ? multiply_rounded(C{0.5} * (high - low), side) : C{0};
  if (scaling == Scaling::weights) return {divide_as(by_way, coder.scale_shift), divide_as(by_ratio, coder.scale_size)};
  return {multiply_rounded(by_way, coder.scale_shift), multiply_rounded(by_ratio, coder.scale_size)};
}

// A box and an anchor as they are encoded.
template <typename C>
struct Encoded {
  Extent<C> anchor, box;
  bool is_small;  // the box's side was limited
};

template <typename C>
ANCHOR_EXT_HD Encoded<C> encoding(bool means_of_ends, const AxisCoder<C>& coder, const Ends<C>& anchor,
                                  const Ends<C>& box) {
  Encoded<C> made{extent_of(means_of_ends, anchor.low, anchor.high), extent_of(means_of_ends, box.low, box.high),
                  false};
  made.is_small = made.box.side < coder.least_side;
  if (made.is_small) made.box.side = coder.least_side;
  made.anchor.side = made.anchor.side + coder.addend;
  made.box.side = made.box.side + coder.addend;
  return made;
}

template <typename C>
ANCHOR_EXT_HD Delta<C> encoded(Scaling scaling, const AxisCoder<C>& coder, const Encoded<C>& at) {
  const C way = at.box.centre - at.anchor.centre, ratio = log_of(divide_as(at.box.side, at.anchor.side));
  if (scaling == Scaling::moments)
    return {divide_as(divide_as(way, at.anchor.side) - coder.mean_shift, coder.scale_shift),
            divide_as(ratio - coder.mean_size, coder.scale_size)};
  return {divide_as(multiply_rounded(coder.scale_shift, way), at.anchor.side),
          multiply_rounded(coder.scale_size, ratio)};
}

// Gradients of a box's ends, by those of its delta.
template <typename C>
ANCHOR_EXT_HD Ends<C> encoded_gradient(Scaling scaling, const AxisCoder<C>& coder, const Encoded<C>& at,
                                       Delta<C> gradient) {
  const bool divides = scaling == Scaling::moments;
  const C shift =
      divides ? divide_as(gradient.shift, coder.scale_shift) : multiply_rounded(gradient.shift, coder.scale_shift);
  const C size =
      divides ? divide_as(gradient.size, coder.scale_size) : multiply_rounded(gradient.size, coder.scale_size);
  const C by_centre = C{0.5} * divide_as(shift, at.anchor.side);
  const C by_side = at.is_small ? C{0} : divide_as(size, at.box.side);
  return {by_centre - by_side, by_centre + by_side};
}

}  // namespace anchor_ext
