// The operators of the focal loss: their schemas, and what they do with tensors' memory.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "core/spec.h"
#include "loss/focal.h"
#include "torch/nvtx.h"
#include "torch/run.h"
#include "torch/tensor.h"

namespace anchor_ext {
namespace {

namespace stable = torch::stable;
using Integers = std::vector<std::int64_t>;

stable::Tensor checked(const char* name, stable::Tensor tensor, const stable::Tensor& logits, const Integers& sizes,
                       ScalarType dtype) {
  bool fits = tensor.dim() == static_cast<std::int64_t>(sizes.size());
  for (std::size_t i = 0; fits && i < sizes.size(); ++i) fits = tensor.size(static_cast<std::int64_t>(i)) == sizes[i];
  if (!fits || tensor.scalar_type() != dtype || tensor.device() != logits.device())
    throw std::invalid_argument(std::string(name) + ": expected another shape or dtype, or the device of logits");
  return tensor.is_contiguous() ? tensor : stable::contiguous(tensor);
}

// What both operators take, checked.
struct Call {
  Focal focal;
  LabelBegins begins;
  stable::Tensor logits, matched, labels;

  Call(const stable::Tensor& given, const stable::Tensor& of_anchors, const stable::Tensor& of_boxes,
       const Integers& counts, double alpha, double gamma, bool normalize)
      : logits(given), matched(of_anchors), labels(of_boxes) {
    if (given.dim() != 3) throw std::invalid_argument("logits: expected a tensor (images, anchors, classes)");
    const auto images = static_cast<std::int64_t>(counts.size());
    if (given.size(0) != images || images > kMaxLossImages)
      reject("counts has ", images, " images; expected ", given.size(0), ", as logits has, and at most ",
             kMaxLossImages);
    if (!(gamma >= 0 && gamma < 1e3)) reject("gamma is ", gamma, "; expected a number >= 0, below 1000");
    if (!(alpha <= 1)) reject("alpha is ", alpha, "; expected a number in 0..1, or a negative one for no weights");
    focal = {given.size(1), given.size(2), static_cast<std::int32_t>(images), alpha, gamma, normalize, {}};
    focal.by_classes = divider_of(focal.classes);
    std::int64_t end = 0;
    begins.begins[0] = 0;
    for (std::int64_t image = 0; image < images; ++image) {
      if (counts[image] < 0 || counts[image] > INT32_MAX - end)
        reject("counts[", image, "] is ", counts[image], "; expected a number of labels");
      end += counts[image];
      begins.begins[image + 1] = static_cast<std::int32_t>(end);
    }
    if (!logits.is_contiguous()) logits = stable::contiguous(logits);
    matched = checked("matched", of_anchors, given, {images, focal.anchors}, ScalarType::Long);
    labels = checked("labels", of_boxes, given, {end}, ScalarType::Long);
    if (logits.numel() > 0 && logits.device().type() == DeviceType::CPU) check_labels();
  }

  template <typename T>
  FocalTensors<T> tensors() const {
    return {static_cast<const T*>(logits.const_data_ptr()), static_cast<const std::int64_t*>(matched.const_data_ptr()),
            static_cast<const std::int64_t*>(labels.const_data_ptr())};
  }

  std::int64_t tiles() const { return tiles_of_image(focal) * focal.images; }

 private:
  void check_labels() const {
    const auto* const of_boxes = static_cast<const std::int64_t*>(labels.const_data_ptr());
    for (std::int64_t i = 0; i < labels.size(0); ++i)
      if (of_boxes[i] < 0 || of_boxes[i] >= focal.classes)
        reject("labels has ", of_boxes[i], "; expected 0 to ", focal.classes - 1);
    const auto* const of_anchors = static_cast<const std::int64_t*>(matched.const_data_ptr());
    for (std::int32_t image = 0; image < focal.images; ++image) {
      const std::int64_t count = begins.begins[image + 1] - begins.begins[image];
      const std::int64_t* const own = of_anchors + image * focal.anchors;
      const std::int64_t most = focal.anchors > 0 ? *std::max_element(own, own + focal.anchors) : -1;
      if (most >= count) reject("matched has ", most, " in image ", image, "; expected less than its labels, ", count);
    }
  }
};

// Calls run(T{}) with the logits' type.
template <typename Run>
void with_type(ScalarType dtype, const Run& run) {
  switch (dtype) {
    case ScalarType::Float:
      return run(float{});
    case ScalarType::Double:
      return run(double{});
    case ScalarType::Half:
      return run(Float16{});
    case ScalarType::BFloat16:
      return run(BFloat16{});
    default:
      throw std::invalid_argument("logits: expected float32, float64, float16 or bfloat16");
  }
}

ScalarType computed_type(ScalarType dtype) { return dtype == ScalarType::Double ? dtype : ScalarType::Float; }

std::tuple<stable::Tensor, stable::Tensor> focal_loss_op(stable::Tensor logits, stable::Tensor matched,
                                                         stable::Tensor labels, Integers counts, double alpha,
                                                         double gamma, bool normalize) {
  ANCHOR_EXT_RANGE("focal_loss");
  const Call call(logits, matched, labels, counts, alpha, gamma, normalize);
  const stable::Device device = logits.device();
  stable::Tensor loss = empty({}, computed_type(logits.scalar_type()), device);
  stable::Tensor weights = empty({call.focal.images}, ScalarType::Double, device);
  with_type(logits.scalar_type(), [&](auto of_type) {
    using T = decltype(of_type);
    if (device.type() == DeviceType::Meta) return;
    const FocalResult<T> result{static_cast<Computed<T>*>(loss.mutable_data_ptr()),
                                static_cast<double*>(weights.mutable_data_ptr())};
    const Place place = place_of(device);
    if (place.device == Device::cpu) {
      const auto sums = std::make_unique<double[]>(static_cast<std::size_t>(call.tiles() + 1));
      on_cpu(call.tiles(), 4, [&](std::int64_t begin, std::int64_t end) {
        focal_tiles_cpu<T>(call.focal, call.tensors<T>(), call.begins, sums.get(), begin, end);
      });
      return focal_finish_cpu<T>(call.focal, call.tensors<T>().matched, sums.get(), result);
    }
    stable::Tensor sums = empty({std::max<std::int64_t>(call.tiles(), 1)}, ScalarType::Double, device);
    stable::Tensor positives = empty({std::max<std::int64_t>(call.tiles(), 1)}, ScalarType::Int, device);
    on_cuda(place.index, [&](int index, void* stream) {
      focal_cuda<T>(call.focal, call.tensors<T>(), call.begins, static_cast<double*>(sums.mutable_data_ptr()),
                    static_cast<std::int32_t*>(positives.mutable_data_ptr()), result, index, stream);
    });
  });
  return {loss, weights};
}

stable::Tensor focal_loss_backward_op(stable::Tensor grad, stable::Tensor weights, stable::Tensor logits,
                                      stable::Tensor matched, stable::Tensor labels, Integers counts, double alpha,
                                      double gamma) {
  ANCHOR_EXT_RANGE("focal_loss_backward");
  const Call call(logits, matched, labels, counts, alpha, gamma, true);
  const stable::Device device = logits.device();
  grad = checked("grad", grad, logits, {}, computed_type(logits.scalar_type()));
  weights = checked("weights", weights, logits, {call.focal.images}, ScalarType::Double);
  stable::Tensor out = empty({logits.size(0), logits.size(1), logits.size(2)}, logits.scalar_type(), device);
  with_type(logits.scalar_type(), [&](auto of_type) {
    using T = decltype(of_type);
    if (device.type() == DeviceType::Meta || out.numel() == 0) return;
    const auto* const of_loss = static_cast<const Computed<T>*>(grad.const_data_ptr());
    const auto* const of_images = static_cast<const double*>(weights.const_data_ptr());
    T* const to = static_cast<T*>(out.mutable_data_ptr());
    const Place place = place_of(device);
    if (place.device == Device::cpu)
      return on_cpu(call.tiles(), 4, [&](std::int64_t begin, std::int64_t end) {
        focal_gradient_cpu<T>(call.focal, call.tensors<T>(), call.begins, of_loss, of_images, to, begin, end);
      });
    on_cuda(place.index, [&](int index, void* stream) {
      focal_gradient_cuda<T>(call.focal, call.tensors<T>(), call.begins, of_loss, of_images, to, index, stream);
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(anchor_ext, m) {
  m.def(
      "focal_loss(Tensor logits, Tensor matched, Tensor labels, SymInt[] counts, float alpha, float gamma, "
      "bool normalize) -> (Tensor, Tensor)");
  m.def(
      "focal_loss_backward(Tensor grad, Tensor weights, Tensor logits, Tensor matched, Tensor labels, "
      "SymInt[] counts, float alpha, float gamma) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(anchor_ext, CompositeExplicitAutograd, m) {
  m.impl("focal_loss", TORCH_BOX(&focal_loss_op));
  m.impl("focal_loss_backward", TORCH_BOX(&focal_loss_backward_op));
}

}  // namespace anchor_ext
