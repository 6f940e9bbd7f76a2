// The operators of deltas: their schemas, and what they do with tensors' memory.
#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "boxes/boxes.h"
#include "core/spec.h"
#include "torch/arguments.h"
#include "torch/nvtx.h"
#include "torch/run.h"

namespace anchor_ext {
namespace {

namespace stable = torch::stable;
using Integers = std::vector<std::int64_t>;

constexpr std::int64_t kGrain = 8192;  // items, below which a thread is not worth its start

template <typename T>
T* memory_of(stable::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}
template <typename T>
const T* memory_of(const stable::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

// Where each image's boxes begin among all; and where the last ones end.
Integers begins_of(const Integers& counts, const stable::Tensor& boxes) {
  Integers begins{0};
  for (std::size_t image = 0; image < counts.size(); ++image) {
    if (counts[image] < 0 || counts[image] > boxes.size(0) - begins.back())
      reject("counts[", image, "] is ", counts[image], "; expected as many in all as boxes, ", boxes.size(0));
    begins.push_back(begins.back() + counts[image]);
  }
  return begins;
}

void check_matched(const stable::Tensor& matched, const Integers& begins) {
  const auto* const all = memory_of<std::int64_t>(matched);
  const std::int64_t anchors = matched.size(1);
  for (std::size_t image = 0; image + 1 < begins.size(); ++image) {
    const std::int64_t* const own = all + static_cast<std::int64_t>(image) * anchors;
    const std::int64_t most = *std::max_element(own, own + anchors), count = begins[image + 1] - begins[image];
    if (most >= count) reject("matched has ", most, " in image ", image, "; expected less than its boxes, ", count);
  }
}

// Indices of anchors, of these sizes.
Indices indices_of(stable::Tensor& index, const Integers& sizes, const stable::Tensor& like, const char* first) {
  const ScalarType dtype = index.scalar_type();
  if (dtype != ScalarType::Long && dtype != ScalarType::Int)
    reject("index is ", shown(index), "; expected int64 or int32");
  index = checked("index", index, sizes, dtype, like, first);
  return {index.numel() == 0 ? nullptr : index.const_data_ptr(), dtype == ScalarType::Long ? 8 : 4};
}

Pyramid pyramid_of(const Text& spec_text, const Sides& level_shapes, const Sides& image_shape) {
  const auto spec = spec_of(spec_text.view());
  if (!is_box(spec->layout()))
    reject("layout is '", spec->parts().layout, "'; expected xyxy or yxyx, of boxes that deltas can move");
  return spec->over(request_of(level_shapes, image_shape, {}));
}

// What decode and its gradient take, checked.
struct Decoding {
  Pyramid pyramid;
  Coder coder;
  stable::Tensor deltas;
  std::optional<stable::Tensor> index;
  Items items;
  std::vector<ImageSide> sides;

  Decoding(const stable::Tensor& given, const std::optional<stable::Tensor>& of_anchors, const Sides& level_shapes,
           const Text& spec, const Text& coder_text, const Sides& image_shape, const Sides& limits)
      : pyramid(pyramid_of(spec, level_shapes, image_shape)),
        coder(coder_of(coder_text.view())),
        deltas(as_contiguous(given)),
        index(of_anchors) {
    if (given.dim() != 3 || given.size(2) != 4) reject("deltas is ", shown(given), "; expected shape (images, n, 4)");
    items = {given.size(0), given.size(1), {}};
    if (index)
      items.indices = indices_of(*index, {items.images, items.of_image}, given, "deltas");
    else if (items.of_image != pyramid.num_anchors)
      reject("deltas are ", items.of_image, " an image; expected ", pyramid.num_anchors, ", as many as anchors");
    if (given.numel() > 0 && pyramid.num_anchors == 0)
      reject("index has ", items.of_image, " entries an image; expected none, for level_shapes without cells");
    if (!limits || limits->empty()) return;  // AOTInductor's packages turn one into the other
    const auto count = static_cast<std::int64_t>(limits->size()) / 2;
    if (limits->size() % 2 != 0 || (count != 1 && count != items.images))
      reject("limits has ", limits->size(), " numbers; expected a height and a width, or as many pairs as images, ",
             items.images);
    for (std::int64_t i = 0; i < count; ++i) {
      check_shape("limits", {(*limits)[2 * i], (*limits)[2 * i + 1]}, 0);
      sides.push_back({(*limits)[2 * i], (*limits)[2 * i + 1]});
    }
  }

  std::int64_t count() const { return items.images * items.of_image; }
  ImageSides limits() const { return {sides.data(), static_cast<std::int64_t>(sides.size())}; }
};

stable::Tensor decode_op(stable::Tensor deltas, std::optional<stable::Tensor> index, Sides level_shapes, Text spec,
                         Text coder, Sides image_shape, Sides limits) {
  ANCHOR_EXT_RANGE("decode");
  const Decoding call(deltas, index, level_shapes, spec, coder, image_shape, limits);
  const stable::Device device = deltas.device();
  stable::Tensor out = empty({call.items.images, call.items.of_image, 4}, computed_type(deltas.scalar_type()), device);
  with_type("deltas", deltas.scalar_type(), [&](auto of_type) {
    using T = decltype(of_type);
    if (device.type() == DeviceType::Meta || call.count() == 0) return;
    const T* const in = memory_of<T>(call.deltas);
    auto* const to = memory_of<Computed<T>>(out);
    run(
        place_of(device), call.count(), kGrain,
        [&](int at, void* stream) {
          decode_cuda(call.pyramid, call.coder, call.items, call.limits(), in, to, at, stream);
        },
        [&](std::int64_t begin, std::int64_t end) {
          decode_cpu(call.pyramid, call.coder, call.items, call.limits(), in, to, begin, end);
        });
  });
  return out;
}

stable::Tensor decode_backward_op(stable::Tensor grad, stable::Tensor deltas, std::optional<stable::Tensor> index,
                                  Sides level_shapes, Text spec, Text coder, Sides image_shape, Sides limits) {
  ANCHOR_EXT_RANGE("decode_backward");
  const Decoding call(deltas, index, level_shapes, spec, coder, image_shape, limits);
  const stable::Device device = deltas.device();
  const Integers sizes{call.items.images, call.items.of_image, 4};
  const stable::Tensor by_boxes = checked("grad", grad, sizes, computed_type(deltas.scalar_type()), deltas, "deltas");
  stable::Tensor out = empty(sizes, deltas.scalar_type(), device);
  with_type("deltas", deltas.scalar_type(), [&](auto of_type) {
    using T = decltype(of_type);
    if (device.type() == DeviceType::Meta || call.count() == 0) return;
    const T* const in = memory_of<T>(call.deltas);
    const auto* const gradient = memory_of<Computed<T>>(by_boxes);
    T* const to = memory_of<T>(out);
    run(
        place_of(device), call.count(), kGrain,
        [&](int at, void* stream) {
          decode_gradient_cuda(call.pyramid, call.coder, call.items, call.limits(), gradient, in, to, at, stream);
        },
        [&](std::int64_t begin, std::int64_t end) {
          decode_gradient_cpu(call.pyramid, call.coder, call.items, call.limits(), gradient, in, to, begin, end);
        });
  });
  return out;
}

// What encode and its gradient take, checked: boxes [..., 4] and an index of each.
struct Encoding {
  Pyramid pyramid;
  Coder coder;
  Integers sizes;
  stable::Tensor boxes, index;
  Indices indices;
  std::int64_t count;

  Encoding(const stable::Tensor& given, const stable::Tensor& of_anchors, const Sides& level_shapes, const Text& spec,
           const Text& coder_text, const Sides& image_shape)
      : pyramid(pyramid_of(spec, level_shapes, image_shape)),
        coder(coder_of(coder_text.view())),
        sizes(given.sizes().begin(), given.sizes().end()),
        boxes(as_contiguous(given)),
        index(of_anchors) {
    if (sizes.empty() || sizes.back() != 4) reject("boxes is ", shown(given), "; expected shape (..., 4)");
    if (given.scalar_type() != ScalarType::Float && given.scalar_type() != ScalarType::Double)
      reject("boxes is ", shown(given), "; expected float32 or float64");
    indices = indices_of(index, {sizes.begin(), sizes.end() - 1}, given, "boxes");
    count = given.numel() / 4;
    if (count > 0 && pyramid.num_anchors == 0)
      reject("index has ", count, " entries; expected none, for level_shapes without cells");
  }
};

// Calls call(C{}) with the boxes' type, float or double.
template <typename Call>
void with_box_type(ScalarType dtype, const Call& call) {
  if (dtype == ScalarType::Float) return call(float{});
  call(double{});
}

stable::Tensor encode_op(stable::Tensor boxes, stable::Tensor index, Sides level_shapes, Text spec, Text coder,
                         Sides image_shape) {
  ANCHOR_EXT_RANGE("encode");
  const Encoding call(boxes, index, level_shapes, spec, coder, image_shape);
  stable::Tensor out = empty(call.sizes, boxes.scalar_type(), boxes.device());
  if (boxes.device().type() == DeviceType::Meta || call.count == 0) return out;
  with_box_type(boxes.scalar_type(), [&](auto of_type) {
    using C = decltype(of_type);
    const auto* const in = memory_of<Box<C>>(call.boxes);
    C* const to = memory_of<C>(out);
    run(
        place_of(boxes.device()), call.count, kGrain,
        [&](int at, void* stream) {
          encode_cuda(call.pyramid, call.coder, call.indices, call.count, in, to, at, stream);
        },
        [&](std::int64_t begin, std::int64_t end) {
          encode_cpu(call.pyramid, call.coder, call.indices, in, to, begin, end);
        });
  });
  return out;
}

stable::Tensor encode_backward_op(stable::Tensor grad, stable::Tensor boxes, stable::Tensor index, Sides level_shapes,
                                  Text spec, Text coder, Sides image_shape) {
  ANCHOR_EXT_RANGE("encode_backward");
  const Encoding call(boxes, index, level_shapes, spec, coder, image_shape);
  const stable::Tensor by_deltas = checked("grad", grad, call.sizes, boxes.scalar_type(), boxes, "boxes");
  stable::Tensor out = empty(call.sizes, boxes.scalar_type(), boxes.device());
  if (boxes.device().type() == DeviceType::Meta || call.count == 0) return out;
  with_box_type(boxes.scalar_type(), [&](auto of_type) {
    using C = decltype(of_type);
    const auto* const in = memory_of<Box<C>>(call.boxes);
    const C* const gradient = memory_of<C>(by_deltas);
    auto* const to = memory_of<Box<C>>(out);
    run(
        place_of(boxes.device()), call.count, kGrain,
        [&](int at, void* stream) {
          encode_gradient_cuda(call.pyramid, call.coder, call.indices, call.count, gradient, in, to, at, stream);
        },
        [&](std::int64_t begin, std::int64_t end) {
          encode_gradient_cpu(call.pyramid, call.coder, call.indices, gradient, in, to, begin, end);
        });
  });
  return out;
}

std::tuple<stable::Tensor, stable::Tensor> targets_op(stable::Tensor boxes, stable::Tensor labels, Integers counts,
                                                      stable::Tensor matched, Sides level_shapes, Text spec,
                                                      Text coder_text, Sides image_shape) {
  ANCHOR_EXT_RANGE("targets");
  const Pyramid pyramid = pyramid_of(spec, level_shapes, image_shape);
  const Coder coder = coder_of(coder_text.view());
  const auto images = static_cast<std::int64_t>(counts.size());
  const Integers begins = begins_of(counts, boxes);
  const ScalarType dtype = boxes.scalar_type();
  if (dtype != ScalarType::Float && dtype != ScalarType::Double)
    reject("boxes is ", shown(boxes), "; expected float32 or float64");
  const stable::Tensor given = checked("boxes", boxes, {begins.back(), 4}, dtype, boxes, "boxes");
  const stable::Tensor classes = checked("labels", labels, {begins.back()}, ScalarType::Long, boxes, "boxes");
  const stable::Tensor of_anchors =
      checked("matched", matched, {images, pyramid.num_anchors}, ScalarType::Long, boxes, "boxes");
  stable::Tensor deltas = empty({images, pyramid.num_anchors, 4}, dtype, boxes.device());
  stable::Tensor own = empty({images, pyramid.num_anchors}, ScalarType::Long, boxes.device());
  if (boxes.device().type() == DeviceType::Meta || own.numel() == 0) return {deltas, own};
  if (boxes.device().type() == DeviceType::CPU) check_matched(of_anchors, begins);
  with_box_type(dtype, [&](auto of_type) {
    using C = decltype(of_type);
    const Matched<C> in{memory_of<Box<C>>(given), memory_of<std::int64_t>(classes),
                        memory_of<std::int64_t>(of_anchors)};
    const Targets<C> to{memory_of<C>(deltas), memory_of<std::int64_t>(own)};
    run(
        place_of(boxes.device()), images * pyramid.num_anchors, kGrain,
        [&](int at, void* stream) { targets_cuda(pyramid, coder, in, begins.data(), images, to, at, stream); },
        [&](std::int64_t begin, std::int64_t end) { targets_cpu(pyramid, coder, in, begins.data(), to, begin, end); });
  });
  return {deltas, own};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(anchor_ext, m) {
  m.def(
      "decode(Tensor deltas, Tensor? index, SymInt[]? level_shapes, str spec, str coder, *, SymInt[]? "
      "image_shape=None, "
      "SymInt[]? limits=None) -> Tensor");
  m.def(
      "decode_backward(Tensor grad, Tensor deltas, Tensor? index, SymInt[]? level_shapes, str spec, str coder, *, "
      "SymInt[]? image_shape=None, SymInt[]? limits=None) -> Tensor");
  m.def(
      "encode(Tensor boxes, Tensor index, SymInt[]? level_shapes, str spec, str coder, *, "
      "SymInt[]? image_shape=None) -> Tensor");
  m.def(
      "encode_backward(Tensor grad, Tensor boxes, Tensor index, SymInt[]? level_shapes, str spec, str coder, *, "
      "SymInt[]? image_shape=None) -> Tensor");
  m.def(
      "targets(Tensor boxes, Tensor labels, SymInt[] counts, Tensor matched, SymInt[]? level_shapes, str spec, "
      "str coder, *, SymInt[]? image_shape=None) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(anchor_ext, CompositeExplicitAutograd, m) {
  m.impl("decode", TORCH_BOX(&decode_op));
  m.impl("decode_backward", TORCH_BOX(&decode_backward_op));
  m.impl("encode", TORCH_BOX(&encode_op));
  m.impl("encode_backward", TORCH_BOX(&encode_backward_op));
  m.impl("targets", TORCH_BOX(&targets_op));
}

}  // namespace anchor_ext
