// The operator match: its schema, and what it does with tensors' memory.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "core/spec.h"
#include "match/match.h"
#include "torch/nvtx.h"
#include "torch/run.h"
#include "torch/tensor.h"

namespace anchor_ext {
namespace {

namespace stable = torch::stable;
using Integers = std::vector<std::int64_t>;

// Where each image's boxes begin among all, and where the last ones end.
Integers begins_of(const Integers& counts, std::int64_t boxes) {
  Integers begins{0};
  for (std::size_t image = 0; image < counts.size(); ++image) {
    if (counts[image] < 0 || counts[image] > kMaxBoxes)
      reject("counts[", image, "] is ", counts[image], "; expected 0..2**31 - 1 boxes");
    begins.push_back(begins.back() + counts[image]);
  }
  if (begins.back() != boxes)
    reject("counts are ", begins.back(), " in all; expected ", boxes, ", as many as boxes");
  return begins;
}

template <typename T>
void match(const Pyramid& pyramid, const Rule& rule, const Box<T>* boxes, const Integers& begins,
           const Matches<T>& matches, stable::Device device) {
  ANCHOR_EXT_RANGE("match");
  const auto images = static_cast<std::int64_t>(begins.size()) - 1;
  const Place place = place_of(device);
  if (place.device == Device::cpu)
    return on_cpu(images, 1, [&](std::int64_t begin, std::int64_t end) {
      match_cpu(pyramid, rule, boxes, begins.data(), matches, begin, end);
    });
  // A key and an index per box.
  stable::Tensor best = empty({std::max<std::int64_t>(2 * begins.back(), 1)}, ScalarType::Long, device);
  on_cuda(place.index, [&](int index, void* stream) {
    Counts counts{};
    for (std::int64_t first = 0; first < images; first += counts.num_images) {
      counts.num_images = static_cast<std::int32_t>(std::min<std::int64_t>(images - first, kMaxMatchedImages));
      if (begins[first + counts.num_images] - begins[first] > kMaxBoxes)
        reject("boxes: expected at most 2**31 - 1 of 512 images");
      for (std::int32_t i = 0; i <= counts.num_images; ++i)
        counts.begins[i] = static_cast<std::int32_t>(begins[first + i] - begins[first]);
      const std::int64_t anchors = first * pyramid.num_anchors;
      match_cuda(pyramid, rule, boxes + begins[first], counts,
                 Matches<T>{matches.matched + anchors, matches.iou == nullptr ? nullptr : matches.iou + anchors},
                 static_cast<std::int64_t*>(best.mutable_data_ptr()) + 2 * begins[first], index, stream);
    }
  });
}

std::tuple<stable::Tensor, stable::Tensor> match_op(stable::Tensor boxes, Integers counts, Sides level_shapes,
                                                    Text spec_text, Text matcher, bool with_iou, Sides image_shape,
                                                    Sides clip) {
  const ScalarType dtype = boxes.scalar_type();
  if (dtype != ScalarType::Float && dtype != ScalarType::Double)
    throw std::invalid_argument("boxes: expected a tensor of float32 or float64");
  if (boxes.dim() != 2 || boxes.size(1) != 4) throw std::invalid_argument("boxes: expected a tensor of shape (n, 4)");
  if (!boxes.is_contiguous()) boxes = stable::contiguous(boxes);
  const auto spec = spec_of(spec_text.view());
  if (!is_box(spec->layout()))
    reject("layout is '", spec->parts().layout, "'; expected xyxy or yxyx, of boxes that can be matched");
  const Rule rule = rule_of(matcher.view());
  const Pyramid pyramid = spec->over(request_of(level_shapes, image_shape, clip));
  const Integers begins = begins_of(counts, boxes.size(0));
  const auto images = static_cast<std::int64_t>(counts.size());
  if (images > 0 && pyramid.num_anchors > kMaxAnchors / images)
    reject("counts has ", images, " images; expected at most 2**58 - 1 anchors in all");
  const stable::Device device = boxes.device();
  stable::Tensor matched = empty({images, pyramid.num_anchors}, ScalarType::Long, device);
  stable::Tensor iou = empty({with_iou ? images : 0, pyramid.num_anchors}, dtype, device);
  if (device.type() == DeviceType::Meta || images == 0 || pyramid.num_anchors == 0) return {matched, iou};
  if (boxes.size(0) > 0 && boxes.const_data_ptr() == nullptr)
    throw std::invalid_argument("boxes: expected a tensor with memory");
  auto* const out = static_cast<std::int64_t*>(matched.mutable_data_ptr());
  const auto run_as = [&](auto of_type) {
    using T = decltype(of_type);
    T* const ious = with_iou ? static_cast<T*>(iou.mutable_data_ptr()) : nullptr;
    match<T>(pyramid, rule, static_cast<const Box<T>*>(boxes.const_data_ptr()), begins, {out, ious}, device);
  };
  if (dtype == ScalarType::Float)
    run_as(float{});
  else
    run_as(double{});
  return {matched, iou};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(anchor_ext, m) {
  m.def(
      "match(Tensor boxes, SymInt[] counts, SymInt[]? level_shapes, str spec, str matcher, *, bool with_iou=False, "
      "SymInt[]? image_shape=None, SymInt[]? clip=None) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(anchor_ext, CompositeExplicitAutograd, m) { m.impl("match", TORCH_BOX(&match_op)); }

}  // namespace anchor_ext
