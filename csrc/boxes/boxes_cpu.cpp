// Decoding on the CPU: 256 anchors at a time, component by component, in vectors. What is encoded are few boxes, one by
// one.
#include <algorithm>
#include <optional>
#include <type_traits>

#include "boxes/boxes.h"
#include "boxes/extents.h"
#include "core/clones.h"

namespace anchor_ext {
namespace {

// Of kCoded items: the anchors; and along x and y what deltas say, and the boxes' ends.
template <typename C>
struct alignas(64) CodedBlock {
  ExtentBlock<C> anchors;
  C shifts[2][kCoded], sizes[2][kCoded], lows[2][kCoded], highs[2][kCoded];
};

template <typename C>
struct Axes {
  Scaling scaling;
  bool y_first;
  AxisCoder<C> coders[2];
  Limits<C> limits[2];
};

template <Scaling kScaling, typename C>
ANCHOR_EXT_INLINE void decode_axis(AxisCoder<C> coder, Limits<C> limits, int axis, CodedBlock<C>& block) {
  const C* const __restrict centres = block.anchors.centres[axis];
  const C* const __restrict sides = block.anchors.sides[axis];
  const C* const __restrict shifts = block.shifts[axis];
  const C* const __restrict sizes = block.sizes[axis];
  C* const __restrict lows = block.lows[axis];
  C* const __restrict highs = block.highs[axis];
  for (int i = 0; i < kCoded; ++i) {
    const Ends<C> ends =
        limited(decoded(kScaling, coder, Extent<C>{centres[i], sides[i]}, shifts[i], sizes[i]), limits);
    lows[i] = ends.low;
    highs[i] = ends.high;
  }
}

// Deltas [kCoded, 4] component by component.
template <typename C>
ANCHOR_EXT_INLINE void read_deltas(bool y_first, const C* __restrict deltas, CodedBlock<C>& block) {
  const int x = y_first ? 1 : 0, y = 1 - x;
  for (int i = 0; i < kCoded; ++i) {
    block.shifts[x][i] = deltas[4 * i];
    block.shifts[y][i] = deltas[4 * i + 1];
    block.sizes[x][i] = deltas[4 * i + 2];
    block.sizes[y][i] = deltas[4 * i + 3];
  }
}

template <typename C>
ANCHOR_EXT_INLINE void decode_any(const Axes<C>& axes, const C* deltas, CodedBlock<C>& block, C* __restrict out) {
  read_deltas(axes.y_first, deltas, block);
  for (int axis = 0; axis < 2; ++axis) {
    const AxisCoder<C>& coder = axes.coders[axis];
    const Limits<C>& limits = axes.limits[axis];
    if (axes.scaling == Scaling::none)
      decode_axis<Scaling::none>(coder, limits, axis, block);
    else if (axes.scaling == Scaling::weights)
      decode_axis<Scaling::weights>(coder, limits, axis, block);
    else
      decode_axis<Scaling::moments>(coder, limits, axis, block);
  }
  for (int i = 0; i < kCoded; ++i) {
    out[4 * i] = block.lows[0][i];
    out[4 * i + 1] = block.lows[1][i];
    out[4 * i + 2] = block.highs[0][i];
    out[4 * i + 3] = block.highs[1][i];
  }
}

}  // namespace

// Boxes [kCoded, 4] of deltas [kCoded, 4].
ANCHOR_EXT_CLONES static void decode_block(const Axes<float>& axes, const float* deltas, CodedBlock<float>& block,
                                           float* out) {
  decode_any(axes, deltas, block, out);
}
static void decode_block(const Axes<double>& axes, const double* deltas, CodedBlock<double>& block, double* out) {
  decode_any(axes, deltas, block, out);
}

namespace {

// Calls per_block(image, first item, count, block) with the anchors of items begin .. end-1 in blocks of one image's.
template <typename C, typename PerBlock>
void for_blocks(const Pyramid& pyramid, const Coder& coder, const Items& items, std::int64_t begin, std::int64_t end,
                const PerBlock& per_block) {
  std::optional<Extents<C>> all;
  if (items.indices.memory == nullptr) all.emplace(pyramid, coder);
  CodedBlock<C> block{};
  for (std::int64_t item = begin; item < end;) {
    const std::int64_t image = item / items.of_image, within = item - image * items.of_image;
    const std::int64_t count = std::min({std::int64_t{kCoded}, items.of_image - within, end - item});
    if (all) {
      all->copy(within, count, block.anchors);
    } else {
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t flat = wrapped(pyramid, index_at(items.indices, item + i));
        const Box<float> anchor = pyramid.plain ? box_at<true>(pyramid, flat) : box_at<false>(pyramid, flat);
        for (int axis = 0; axis < 2; ++axis)
          block.anchors.set(static_cast<int>(i), axis, extent_along<C>(coder, anchor, axis));
      }
    }
    per_block(image, item, count, block);
    item += count;
  }
}

template <typename C>
Axes<C> axes_of(const Coder& coder, const ImageSides& sides, std::int64_t image) {
  Axes<C> axes{coder.scaling, coder.y_first, {along<C>(coder, 0), along<C>(coder, 1)}, {}};
  for (int axis = 0; axis < 2; ++axis) {
    axes.limits[axis] = limits_of<C>(Limited::not_at_all, 0);
    if (sides.count == 0) continue;
    const ImageSide& own = sides.sides[sides.count == 1 ? 0 : image];
    axes.limits[axis] = limits_of<C>(coder.limited, axis == 0 ? own.width : own.height);
  }
  return axes;
}

}  // namespace

template <typename T>
void decode_cpu(const Pyramid& pyramid, const Coder& coder, const Items& items, const ImageSides& sides,
                const T* deltas, Computed<T>* out, std::int64_t begin, std::int64_t end) {
  using C = Computed<T>;
  alignas(64) C in[4 * kCoded] = {}, made[4 * kCoded];
  for_blocks<C>(pyramid, coder, items, begin, end,
                [&](std::int64_t image, std::int64_t item, std::int64_t count, CodedBlock<C>& block) {
                  const T* const given = deltas + 4 * item;
                  const bool is_whole = count == kCoded;
                  const C* from = reinterpret_cast<const C*>(given);
                  if (!is_whole || !std::is_same_v<T, C>) {
                    std::transform(given, given + 4 * count, in, [](T delta) { return widened(delta); });
                    from = in;
                  }
                  decode_block(axes_of<C>(coder, sides, image), from, block, is_whole ? out + 4 * item : made);
                  if (!is_whole) std::copy_n(made, 4 * count, out + 4 * item);
                });
}

template <typename T>
void decode_gradient_cpu(const Pyramid& pyramid, const Coder& coder, const Items& items, const ImageSides& sides,
                         const Computed<T>* grad, const T* deltas, T* out, std::int64_t begin, std::int64_t end) {
  using C = Computed<T>;
  for_blocks<C>(pyramid, coder, items, begin, end,
                [&](std::int64_t image, std::int64_t item, std::int64_t count, CodedBlock<C>& block) {
                  const Axes<C> axes = axes_of<C>(coder, sides, image);
                  for (int axis = 0; axis < 2; ++axis) {
                    const int shift = shift_at(coder, axis);
                    for (std::int64_t i = 0; i < count; ++i) {
                      const C* const by_box = grad + 4 * (item + i);
                      const T* const delta = deltas + 4 * (item + i) + shift;
                      const Extent<C> anchor{block.anchors.centres[axis][i], block.anchors.sides[axis][i]};
                      const Delta<C> gradient = decoded_gradient(
                          coder.scaling, axes.coders[axis], anchor, widened(delta[0]), widened(delta[2]),
                          axes.limits[axis], Ends<C>{by_box[axis], by_box[axis + 2]});
                      out[4 * (item + i) + shift] = round_to<T>(gradient.shift);
                      out[4 * (item + i) + shift + 2] = round_to<T>(gradient.size);
                    }
                  }
                });
}

template <typename C>
void encode_cpu(const Pyramid& pyramid, const Coder& coder, const Indices& indices, const Box<C>* boxes, C* out,
                std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i)
    encode_one(coder, box_at(pyramid, wrapped(pyramid, index_at(indices, i))), boxes[i], out + 4 * i);
}

template <typename C>
void encode_gradient_cpu(const Pyramid& pyramid, const Coder& coder, const Indices& indices, const C* grad,
                         const Box<C>* boxes, Box<C>* out, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i)
    out[i] =
        encode_gradient_one(coder, box_at(pyramid, wrapped(pyramid, index_at(indices, i))), boxes[i], grad + 4 * i);
}

template <typename C>
void targets_cpu(const Pyramid& pyramid, const Coder& coder, const Matched<C>& matched, const std::int64_t* begins,
                 const Targets<C>& targets, std::int64_t begin, std::int64_t end) {
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t image = item / pyramid.num_anchors;
    target_of(pyramid, coder, matched, targets, image, begins[image], begins[image + 1] - begins[image],
              item - image * pyramid.num_anchors);
  }
}

#define ANCHOR_EXT_DECODE(T)                                                                                           \
  template void decode_cpu(const Pyramid&, const Coder&, const Items&, const ImageSides&, const T*, Computed<T>*,      \
                           std::int64_t, std::int64_t);                                                                \
  template void decode_gradient_cpu(const Pyramid&, const Coder&, const Items&, const ImageSides&, const Computed<T>*, \
                                    const T*, T*, std::int64_t, std::int64_t);
ANCHOR_EXT_DECODE(float)
ANCHOR_EXT_DECODE(double)
ANCHOR_EXT_DECODE(Float16)
ANCHOR_EXT_DECODE(BFloat16)
#undef ANCHOR_EXT_DECODE

#define ANCHOR_EXT_ENCODE(C)                                                                                         \
  template void encode_cpu(const Pyramid&, const Coder&, const Indices&, const Box<C>*, C*, std::int64_t,            \
                           std::int64_t);                                                                            \
  template void encode_gradient_cpu(const Pyramid&, const Coder&, const Indices&, const C*, const Box<C>*, Box<C>*,  \
                                    std::int64_t, std::int64_t);                                                     \
  template void targets_cpu(const Pyramid&, const Coder&, const Matched<C>&, const std::int64_t*, const Targets<C>&, \
                            std::int64_t, std::int64_t);
ANCHOR_EXT_ENCODE(float)
ANCHOR_EXT_ENCODE(double)
#undef ANCHOR_EXT_ENCODE

}  // namespace anchor_ext
