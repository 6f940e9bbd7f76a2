// The operators of losses: their schemas, and what they do with tensors' memory.
#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "core/spec.h"
#include "loss/box_loss.h"
#include "loss/focal.h"
#include "torch/arguments.h"
#include "torch/nvtx.h"
#include "torch/run.h"

namespace anchor_ext {
namespace {

namespace stable = torch::stable;
using Integers = std::vector<std::int64_t>;
using Tensors = std::vector<stable::Tensor>;

BoxBegins begins_of(const Integers& counts, std::int64_t images, const char* name) {
  if (static_cast<std::int64_t>(counts.size()) != images || images > kMaxLossImages)
    reject("counts has ", counts.size(), " images; expected ", images, ", as ", name, " has, and at most ",
           kMaxLossImages);
  BoxBegins begins{};
  std::int64_t end = 0;
  for (std::size_t image = 0; image < counts.size(); ++image) {
    if (counts[image] < 0 || counts[image] > INT32_MAX - end)
      reject("counts[", image, "] is ", counts[image], "; expected a number of boxes");
    end += counts[image];
    begins.begins[image + 1] = static_cast<std::int32_t>(end);
  }
  return begins;
}

// Of images with so many anchors each; on the CPU, where nobody waits for it.
void check_matched(const std::int64_t* matched, std::int64_t anchors, std::int32_t images, const BoxBegins& begins,
                   const char* what) {
  for (std::int32_t image = 0; image < images && anchors > 0; ++image) {
    const std::int64_t count = begins.begins[image + 1] - begins.begins[image];
    const std::int64_t most = *std::max_element(matched + image * anchors, matched + (image + 1) * anchors);
    if (most >= count)
      reject("matched has ", most, " in image ", image, "; expected less than its ", what, ", ", count);
  }
}

// Memory of a device for what becomes of tiles.
struct TileSums {
  stable::Tensor sums, positives;

  TileSums(const Summation& summation, stable::Device device)
      : sums(empty({std::max<std::int64_t>(summation.tiles * summation.images, 1)}, ScalarType::Double, device)),
        positives(empty({std::max<std::int64_t>(summation.tiles * summation.images, 1)}, ScalarType::Int, device)) {}

  double* of_tiles() { return static_cast<double*>(sums.mutable_data_ptr()); }
  std::int32_t* counts() { return static_cast<std::int32_t*>(positives.mutable_data_ptr()); }
};

constexpr std::int64_t kGrain = 4;  // tiles

// The loss of tiles' sums: `on_tiles(sums, begin, end)` on the CPU, `on_device(sums, positives, device, stream)`.
template <typename C, typename OnTiles, typename OnDevice>
void sum_tiles(const Summation& summation, const std::int64_t* matched, const LossResult<C>& result,
               stable::Device device, const OnTiles& on_tiles, const OnDevice& on_device) {
  const Place place = place_of(device);
  if (place.device == Device::cpu) {
    const auto sums = std::make_unique<double[]>(static_cast<std::size_t>(summation.tiles * summation.images + 1));
    on_cpu(summation.tiles * summation.images, kGrain,
           [&](std::int64_t begin, std::int64_t end) { on_tiles(sums.get(), begin, end); });
    return finish_cpu(summation, matched, sums.get(), result);
  }
  TileSums memory(summation, device);
  on_cuda(place.index, [&](int index, void* stream) {
    on_device(memory.of_tiles(), memory.counts(), index, stream);
    finish_cuda(summation, memory.of_tiles(), memory.counts(), result, index, stream);
  });
}

// What the focal loss and its gradient take, checked. The logits are one tensor (images, anchors, classes), or a
// level's (images, cell anchors * classes, rows, columns) each.
struct FocalCall {
  Focal focal{};
  BoxBegins begins;
  Tensors logits;                  // by part
  std::vector<std::size_t> given;  // which of the tensors each part is
  stable::Tensor matched, labels;

  FocalCall(const Tensors& tensors, const stable::Tensor& of_anchors, const stable::Tensor& of_boxes,
            const Integers& counts, double alpha, double gamma, bool normalize)
      : begins(begins_of(counts, check_logits(tensors), "logits")), matched(of_anchors), labels(of_boxes) {
    if (!(gamma >= 0 && gamma < 1e3)) reject("gamma is ", gamma, "; expected a number >= 0, below 1000");
    if (!(alpha <= 1)) reject("alpha is ", alpha, "; expected a number in 0..1, or a negative one for no weights");
    if (of_anchors.dim() != 2) reject("matched is ", shown(of_anchors), "; expected shape (images, anchors)");
    focal.images = static_cast<std::int32_t>(counts.size());
    focal.anchors = of_anchors.size(1);
    focal.alpha = alpha;
    focal.gamma = gamma;
    focal.normalize = normalize;
    focal.classes = classes_of(tensors);
    focal.by_classes = divider_of(focal.classes);
    add_parts(tensors);
    const stable::Tensor& first = tensors[0];
    matched = checked("matched", of_anchors, {focal.images, focal.anchors}, ScalarType::Long, first, "logits");
    labels = checked("labels", of_boxes, {begins.begins[focal.images]}, ScalarType::Long, first, "logits");
    if (focal.tiles > 0 && focal.images > 0 && first.device().type() == DeviceType::CPU) check_labels();
  }

  template <typename T>
  FocalTensors<T> tensors() const {
    FocalTensors<T> made{{}, of_anchors(), static_cast<const std::int64_t*>(labels.const_data_ptr())};
    for (std::size_t part = 0; part < logits.size(); ++part)
      made.logits[part] = static_cast<const T*>(logits[part].const_data_ptr());
    return made;
  }

  const std::int64_t* of_anchors() const { return static_cast<const std::int64_t*>(matched.const_data_ptr()); }
  std::int64_t tiles() const { return focal.tiles * focal.images; }

 private:
  static std::int64_t check_logits(const Tensors& tensors) {
    if (tensors.empty() || tensors.size() > kMaxLevels)
      reject("logits has ", tensors.size(), " tensors; expected 1 to ", kMaxLevels);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const stable::Tensor &one = tensors[i], &first = tensors[0];
      if (one.dim() != 4 && !(one.dim() == 3 && tensors.size() == 1))
        reject("logits[", i, "] has ", one.dim(),
               " dimensions; expected one tensor (images, anchors, classes), or a "
               "level's (images, cell anchors * classes, rows, columns) each");
      if (one.size(0) != first.size(0) || one.scalar_type() != first.scalar_type() || one.device() != first.device())
        reject("logits[", i, "]: expected the images, the dtype and the device of logits[0]");
    }
    return tensors[0].size(0);
  }

  std::int64_t classes_of(const Tensors& tensors) const {
    if (tensors[0].dim() == 3) return tensors[0].size(2);
    std::int64_t numbers = 0;  // of an image
    for (const stable::Tensor& one : tensors) numbers += one.size(1) * one.size(2) * one.size(3);
    if (focal.anchors == 0 ? numbers != 0 : numbers % focal.anchors != 0)
      reject("logits are ", numbers, " an image; expected a multiple of ", focal.anchors, ", as many as matched has");
    return focal.anchors == 0 ? 0 : numbers / focal.anchors;
  }

  void add_parts(const Tensors& tensors) {
    std::int64_t begin = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const stable::Tensor& one = tensors[i];
      const bool is_flat = one.dim() == 3;
      FocalPart part{begin, 0, is_flat ? one.size(1) : 0, focal.tiles, {}};
      if (!is_flat) {
        part.cells = one.size(2) * one.size(3);
        if (focal.classes > 0 && one.size(1) % focal.classes != 0)
          reject("logits[", i, "] has ", one.size(1), " channels; expected a multiple of ", focal.classes,
                 " classes, which follow from matched");
        part.cell_anchors = focal.classes > 0 ? one.size(1) / focal.classes : 0;
        part.by_cells = divider_of(part.cells);
        if (part.cells == 0) continue;
      }
      begin += part.cell_anchors * (is_flat ? 1 : part.cells);
      if (part.cell_anchors * focal.classes == 0) continue;
      focal.parts[focal.num_parts++] = part;
      focal.tiles += (logits_of_part(focal, part) + kTile - 1) / kTile;
      logits.push_back(as_contiguous(one));
      given.push_back(i);
    }
    if (begin != focal.anchors && focal.classes > 0)
      reject("logits have ", begin, " anchors; expected ", focal.anchors, ", as many as matched has");
  }

  void check_labels() const {
    const auto* const of_boxes = static_cast<const std::int64_t*>(labels.const_data_ptr());
    for (std::int64_t i = 0; i < labels.size(0); ++i)
      if (of_boxes[i] < 0 || of_boxes[i] >= focal.classes)
        reject("labels has ", of_boxes[i], "; expected 0 to ", focal.classes - 1);
    check_matched(of_anchors(), focal.anchors, focal.images, begins, "labels");
  }
};

std::tuple<stable::Tensor, stable::Tensor> focal_loss_op(Tensors logits, stable::Tensor matched, stable::Tensor labels,
                                                         Integers counts, double alpha, double gamma, bool normalize) {
  ANCHOR_EXT_RANGE("focal_loss");
  const FocalCall call(logits, matched, labels, counts, alpha, gamma, normalize);
  const stable::Device device = logits[0].device();
  const ScalarType dtype = logits[0].scalar_type();
  stable::Tensor loss = empty({}, computed_type(dtype), device);
  stable::Tensor weights = empty({call.focal.images}, ScalarType::Double, device);
  with_type("logits", dtype, [&](auto of_type) {
    using T = decltype(of_type);
    if (device.type() == DeviceType::Meta) return;
    const LossResult<Computed<T>> result{static_cast<Computed<T>*>(loss.mutable_data_ptr()),
                                         static_cast<double*>(weights.mutable_data_ptr())};
    MarkedAnchors marked;
    if (device.type() == DeviceType::CPU) marked = marked_anchors(call.focal, call.of_anchors());
    sum_tiles(
        summation_of(call.focal), call.of_anchors(), result, device,
        [&](double* sums, std::int64_t begin, std::int64_t end) {
          focal_tiles_cpu<T>(call.focal, call.tensors<T>(), call.begins, marked, sums, begin, end);
        },
        [&](double* sums, std::int32_t* positives, int index, void* stream) {
          focal_tiles_cuda<T>(call.focal, call.tensors<T>(), call.begins, sums, positives, index, stream);
        });
  });
  return {loss, weights};
}

Tensors focal_loss_backward_op(stable::Tensor grad, stable::Tensor weights, Tensors logits, stable::Tensor matched,
                               stable::Tensor labels, Integers counts, double alpha, double gamma) {
  ANCHOR_EXT_RANGE("focal_loss_backward");
  const FocalCall call(logits, matched, labels, counts, alpha, gamma, true);
  const stable::Device device = logits[0].device();
  const ScalarType dtype = logits[0].scalar_type();
  grad = checked("grad", grad, {}, computed_type(dtype), logits[0], "logits");
  weights = checked("weights", weights, {call.focal.images}, ScalarType::Double, logits[0], "logits");
  Tensors out;
  for (const stable::Tensor& one : logits)
    out.push_back(empty({one.sizes().begin(), one.sizes().end()}, dtype, device));
  with_type("logits", dtype, [&](auto of_type) {
    using T = decltype(of_type);
    if (device.type() == DeviceType::Meta || call.tiles() == 0) return;
    const auto* const of_loss = static_cast<const Computed<T>*>(grad.const_data_ptr());
    const auto* const of_images = static_cast<const double*>(weights.const_data_ptr());
    T* to[kMaxLevels] = {};
    for (std::size_t part = 0; part < call.given.size(); ++part)
      to[part] = static_cast<T*>(out[call.given[part]].mutable_data_ptr());
    MarkedAnchors marked;
    if (device.type() == DeviceType::CPU) marked = marked_anchors(call.focal, call.of_anchors());
    run(
        place_of(device), call.tiles(), kGrain,
        [&](int index, void* stream) {
          focal_gradient_cuda<T>(call.focal, call.tensors<T>(), call.begins, of_loss, of_images, to, index, stream);
        },
        [&](std::int64_t begin, std::int64_t end) {
          focal_gradient_cpu<T>(call.focal, call.tensors<T>(), call.begins, marked, of_loss, of_images, to, begin, end);
        });
  });
  return out;
}

// What the box loss and its gradient take, checked.
struct BoxLossCall {
  Pyramid pyramid;
  BoxLoss loss{};
  BoxBegins begins;
  stable::Tensor deltas, matched, boxes;

  BoxLossCall(const stable::Tensor& given, const stable::Tensor& of_anchors, const stable::Tensor& of_boxes,
              const Integers& counts, const Sides& level_shapes, const Text& spec_text, const Text& coder,
              const Text& kind, double beta, bool normalize, const Sides& image_shape)
      : begins(begins_of(counts, given.dim() == 3 ? given.size(0) : 0, "deltas")),
        deltas(as_contiguous(given)),
        matched(of_anchors),
        boxes(of_boxes) {
    const auto spec = spec_of(spec_text.view());
    if (!is_box(spec->layout()))
      reject("layout is '", spec->parts().layout, "'; expected xyxy or yxyx, of boxes that deltas can move");
    pyramid = spec->over(request_of(level_shapes, image_shape, {}));
    if (!(beta >= 0 && beta <= 1e30)) reject("beta is ", beta, "; expected a finite number >= 0");
    loss = {box_loss_kind_of(kind.view()),
            beta,
            coder_of(coder.view()),
            pyramid.num_anchors,
            static_cast<std::int32_t>(counts.size()),
            normalize};
    deltas = checked("deltas", given, {loss.images, loss.anchors, 4}, given.scalar_type(), given, "deltas");
    matched = checked("matched", of_anchors, {loss.images, loss.anchors}, ScalarType::Long, given, "deltas");
    boxes = checked("boxes", of_boxes, {begins.begins[loss.images], 4}, ScalarType::Double, given, "deltas");
    if (given.device().type() == DeviceType::CPU)
      check_matched(positions(), loss.anchors, loss.images, begins, "boxes");
  }

  const std::int64_t* positions() const { return static_cast<const std::int64_t*>(matched.const_data_ptr()); }
  template <typename T>
  BoxLossTensors<T> tensors() const {
    return {static_cast<const T*>(deltas.const_data_ptr()), positions(),
            static_cast<const Box<double>*>(boxes.const_data_ptr())};
  }
};

std::tuple<stable::Tensor, stable::Tensor> box_loss_op(stable::Tensor deltas, stable::Tensor matched,
                                                       stable::Tensor boxes, Integers counts, Sides level_shapes,
                                                       Text spec, Text coder, Text kind, double beta, bool normalize,
                                                       Sides image_shape) {
  ANCHOR_EXT_RANGE("box_loss");
  const BoxLossCall call(deltas, matched, boxes, counts, level_shapes, spec, coder, kind, beta, normalize, image_shape);
  const stable::Device device = deltas.device();
  stable::Tensor loss = empty({}, computed_type(deltas.scalar_type()), device);
  stable::Tensor weights = empty({call.loss.images}, ScalarType::Double, device);
  with_type("deltas", deltas.scalar_type(), [&](auto of_type) {
    using T = decltype(of_type);
    if (device.type() == DeviceType::Meta) return;
    const LossResult<Computed<T>> result{static_cast<Computed<T>*>(loss.mutable_data_ptr()),
                                         static_cast<double*>(weights.mutable_data_ptr())};
    sum_tiles(
        summation_of(call.loss), call.positions(), result, device,
        [&](double* sums, std::int64_t begin, std::int64_t end) {
          box_loss_tiles_cpu(call.pyramid, call.loss, call.tensors<T>(), call.begins, sums, begin, end);
        },
        [&](double* sums, std::int32_t* positives, int index, void* stream) {
          box_loss_tiles_cuda(call.pyramid, call.loss, call.tensors<T>(), call.begins, sums, positives, index, stream);
        });
  });
  return {loss, weights};
}

stable::Tensor box_loss_backward_op(stable::Tensor grad, stable::Tensor weights, stable::Tensor deltas,
                                    stable::Tensor matched, stable::Tensor boxes, Integers counts, Sides level_shapes,
                                    Text spec, Text coder, Text kind, double beta, Sides image_shape) {
  ANCHOR_EXT_RANGE("box_loss_backward");
  const BoxLossCall call(deltas, matched, boxes, counts, level_shapes, spec, coder, kind, beta, true, image_shape);
  const stable::Device device = deltas.device();
  grad = checked("grad", grad, {}, computed_type(deltas.scalar_type()), deltas, "deltas");
  weights = checked("weights", weights, {call.loss.images}, ScalarType::Double, deltas, "deltas");
  stable::Tensor out = empty({call.loss.images, call.loss.anchors, 4}, deltas.scalar_type(), device);
  with_type("deltas", deltas.scalar_type(), [&](auto of_type) {
    using T = decltype(of_type);
    if (device.type() == DeviceType::Meta || out.numel() == 0) return;
    const auto* const of_loss = static_cast<const Computed<T>*>(grad.const_data_ptr());
    const auto* const of_images = static_cast<const double*>(weights.const_data_ptr());
    T* const to = static_cast<T*>(out.mutable_data_ptr());
    run(
        place_of(device), tiles_of_image(call.loss) * call.loss.images, kGrain,
        [&](int index, void* stream) {
          box_loss_gradient_cuda(call.pyramid, call.loss, call.tensors<T>(), call.begins, of_loss, of_images, to, index,
                                 stream);
        },
        [&](std::int64_t begin, std::int64_t end) {
          box_loss_gradient_cpu(call.pyramid, call.loss, call.tensors<T>(), call.begins, double{*of_loss}, of_images,
                                to, begin, end);
        });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(anchor_ext, m) {
  m.def(
      "focal_loss(Tensor[] logits, Tensor matched, Tensor labels, SymInt[] counts, float alpha, float gamma, "
      "bool normalize) -> (Tensor, Tensor)");
  m.def(
      "focal_loss_backward(Tensor grad, Tensor weights, Tensor[] logits, Tensor matched, Tensor labels, "
      "SymInt[] counts, float alpha, float gamma) -> Tensor[]");
  m.def(
      "box_loss(Tensor deltas, Tensor matched, Tensor boxes, SymInt[] counts, SymInt[]? level_shapes, str spec, "
      "str coder, str kind, float beta, bool normalize, *, SymInt[]? image_shape=None) -> (Tensor, Tensor)");
  m.def(
      "box_loss_backward(Tensor grad, Tensor weights, Tensor deltas, Tensor matched, Tensor boxes, SymInt[] counts, "
      "SymInt[]? level_shapes, str spec, str coder, str kind, float beta, *, SymInt[]? image_shape=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(anchor_ext, CompositeExplicitAutograd, m) {
  m.impl("focal_loss", TORCH_BOX(&focal_loss_op));
  m.impl("focal_loss_backward", TORCH_BOX(&focal_loss_backward_op));
  m.impl("box_loss", TORCH_BOX(&box_loss_op));
  m.impl("box_loss_backward", TORCH_BOX(&box_loss_backward_op));
}

}  // namespace anchor_ext
