// The operator match: its schema, and what it does with tensors' memory.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "core/spec.h"
#include "match/best_anchor.h"
#include "match/match.h"
#include "torch/arguments.h"
#include "torch/nvtx.h"
#include "torch/run.h"
#include "torch/tensor.h"

namespace anchor_ext {
namespace {

namespace stable = torch::stable;
using Integers = std::vector<std::int64_t>;

// Boxes of a batch, or regions: checked, contiguous, and kept alive as long as they are used.
struct BoxBatch {
  stable::Tensor tensor;
  Integers begins;  // of each image's among all; and where the last ones end

  template <typename T>
  const Box<T>* memory() const {
    return static_cast<const Box<T>*>(tensor.const_data_ptr());
  }
  template <typename T>
  CpuBoxes<T> for_cpu() const {
    return {memory<T>(), begins.data()};
  }
  // Of some images.
  template <typename T>
  CudaBoxes<T> for_cuda(std::int64_t first, std::int32_t images) const {
    CudaBoxes<T> boxes{memory<T>() + begins[first], {images, {}}};
    for (std::int32_t i = 0; i <= images; ++i)
      boxes.begins.begins[i] = static_cast<std::int32_t>(begins[first + i] - begins[first]);
    return boxes;
  }
};

stable::Tensor boxes_of(const char* name, stable::Tensor boxes) {
  const auto refuse = [&](const char* expected) { reject(name, " is ", shown(boxes), "; expected ", expected); };
  if (boxes.scalar_type() != ScalarType::Float && boxes.scalar_type() != ScalarType::Double)
    refuse("float32 or float64");
  if (boxes.dim() != 2 || boxes.size(1) != 4) refuse("shape (n, 4)");
  boxes = as_contiguous(boxes);
  if (boxes.size(0) > 0 && boxes.device().type() != DeviceType::Meta && boxes.const_data_ptr() == nullptr)
    refuse("one with memory");
  return boxes;
}

BoxBatch batch_of(const char* name, const char* counts_name, const stable::Tensor& tensor, const Integers& counts) {
  stable::Tensor boxes = boxes_of(name, tensor);
  Integers begins{0};
  for (std::size_t image = 0; image < counts.size(); ++image) {
    if (counts[image] < 0 || counts[image] > kMaxBoxes)
      reject(counts_name, "[", image, "] is ", counts[image], "; expected 0 to ", kMaxBoxes);
    begins.push_back(begins.back() + counts[image]);
  }
  if (begins.back() != boxes.size(0))
    reject(counts_name, " are ", begins.back(), " in all; expected ", boxes.size(0), ", as many as ", name);
  return {boxes, begins};
}

std::shared_ptr<const Spec> spec_of_boxes(const Text& text) {
  auto spec = spec_of(text.view());
  if (!is_box(spec->layout()))
    reject("layout is '", spec->parts().layout, "'; expected xyxy or yxyx, of boxes that can be matched");
  return spec;
}

template <typename T>
void match(const Pyramid& pyramid, const Rule& rule, const BoxBatch& boxes, const BoxBatch* regions,
           const Matches<T>& matches, stable::Device device) {
  ANCHOR_EXT_RANGE("match");
  const auto images = static_cast<std::int64_t>(boxes.begins.size()) - 1;
  const Place place = place_of(device);
  if (place.device == Device::cpu)
    return on_cpu(images, 1, [&](std::int64_t begin, std::int64_t end) {
      match_cpu(pyramid, rule, boxes.for_cpu<T>(), regions == nullptr ? CpuBoxes<T>{} : regions->for_cpu<T>(), matches,
                begin, end);
    });
  // A key and an index per box.
  stable::Tensor best = empty({std::max<std::int64_t>(2 * boxes.begins.back(), 1)}, ScalarType::Long, device);
  on_cuda(place.index, [&](int index, void* stream) {
    for (std::int64_t first = 0; first < images; first += kMaxMatchedImages) {
      const auto some = static_cast<std::int32_t>(std::min<std::int64_t>(images - first, kMaxMatchedImages));
      const std::int64_t anchors = first * pyramid.num_anchors;
      match_cuda(pyramid, rule, boxes.for_cuda<T>(first, some),
                 regions == nullptr ? CudaBoxes<T>{} : regions->for_cuda<T>(first, some),
                 Matches<T>{matches.matched + anchors, matches.iou == nullptr ? nullptr : matches.iou + anchors},
                 static_cast<std::int64_t*>(best.mutable_data_ptr()) + 2 * boxes.begins[first], index, stream);
    }
  });
}

std::tuple<stable::Tensor, stable::Tensor> match_op(stable::Tensor boxes, Integers counts, Sides level_shapes,
                                                    Text spec_text, Text matcher, bool with_iou, Sides image_shape,
                                                    Sides clip, std::optional<stable::Tensor> ignored,
                                                    Sides ignored_counts) {
  const BoxBatch batch = batch_of("boxes", "counts", boxes, counts);
  std::optional<BoxBatch> regions;
  if (ignored) {
    regions = batch_of("ignored", "ignored_counts", *ignored, ignored_counts.value_or(Integers{}));
    if (regions->begins.size() != batch.begins.size())
      reject("ignored_counts has ", regions->begins.size() - 1, " images; expected ", counts.size(), ", as counts has");
    if (ignored->scalar_type() != boxes.scalar_type() || ignored->device() != boxes.device())
      reject("ignored is ", shown(*ignored), "; expected the dtype and the device of boxes, ", shown(boxes));
  }
  const auto spec = spec_of_boxes(spec_text);
  const Rule rule = rule_of(matcher.view());
  const Pyramid pyramid = spec->over(request_of(level_shapes, image_shape, clip));
  const auto images = static_cast<std::int64_t>(counts.size());
  if (images > 0 && pyramid.num_anchors > kMaxAnchors / images)
    reject("counts has ", images, " images; expected at most 2**58 - 1 anchors in all");
  const stable::Device device = boxes.device();
  stable::Tensor matched = empty({images, pyramid.num_anchors}, ScalarType::Long, device);
  stable::Tensor iou = empty({with_iou ? images : 0, pyramid.num_anchors}, boxes.scalar_type(), device);
  if (device.type() == DeviceType::Meta || images == 0 || pyramid.num_anchors == 0) return {matched, iou};
  auto* const out = static_cast<std::int64_t*>(matched.mutable_data_ptr());
  const auto run_as = [&](auto of_type) {
    using T = decltype(of_type);
    T* const ious = with_iou ? static_cast<T*>(iou.mutable_data_ptr()) : nullptr;
    match<T>(pyramid, rule, batch, regions ? &*regions : nullptr, {out, ious}, device);
  };
  if (boxes.scalar_type() == ScalarType::Float)
    run_as(float{});
  else
    run_as(double{});
  return {matched, iou};
}

constexpr std::int64_t kGrain = 4096;  // boxes, below which a thread is not worth its start

template <typename T>
void best_anchors(const Pyramid& pyramid, const stable::Tensor& boxes, stable::Tensor& iou, stable::Tensor& index) {
  ANCHOR_EXT_RANGE("best_anchor");
  const Tables tables = tables_of(pyramid);
  const auto* const memory = static_cast<const Box<T>*>(boxes.const_data_ptr());
  const BestAnchors<T> best{static_cast<T*>(iou.mutable_data_ptr()),
                            static_cast<std::int64_t*>(index.mutable_data_ptr())};
  on_cpu(boxes.size(0), kGrain,
         [&](std::int64_t begin, std::int64_t end) { best_anchors_cpu(pyramid, tables, memory, best, begin, end); });
}

std::tuple<stable::Tensor, stable::Tensor> best_anchor_op(stable::Tensor boxes, Sides level_shapes, Text spec_text,
                                                          Sides image_shape, Sides clip) {
  boxes = boxes_of("boxes", boxes);
  const stable::Device device = boxes.device();
  if (device.type() == DeviceType::CUDA)
    reject("boxes is ", shown(boxes), "; expected a tensor on the CPU, where alone the best anchors are found");
  const Pyramid pyramid = spec_of_boxes(spec_text)->over(request_of(level_shapes, image_shape, clip));
  stable::Tensor iou = empty({boxes.size(0)}, boxes.scalar_type(), device);
  stable::Tensor index = empty({boxes.size(0)}, ScalarType::Long, device);
  if (device.type() == DeviceType::Meta || boxes.size(0) == 0) return {iou, index};
  if (boxes.scalar_type() == ScalarType::Float)
    best_anchors<float>(pyramid, boxes, iou, index);
  else
    best_anchors<double>(pyramid, boxes, iou, index);
  return {iou, index};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(anchor_ext, m) {
  m.def(
      "match(Tensor boxes, SymInt[] counts, SymInt[]? level_shapes, str spec, str matcher, *, bool with_iou=False, "
      "SymInt[]? image_shape=None, SymInt[]? clip=None, Tensor? ignored=None, SymInt[]? ignored_counts=None) -> "
      "(Tensor, Tensor)");
  m.def(
      "best_anchor(Tensor boxes, SymInt[]? level_shapes, str spec, *, SymInt[]? image_shape=None, "
      "SymInt[]? clip=None) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(anchor_ext, CompositeExplicitAutograd, m) {
  m.impl("match", TORCH_BOX(&match_op));
  m.impl("best_anchor", TORCH_BOX(&best_anchor_op));
}

}  // namespace anchor_ext
