// The anchors' operators: their schemas, and what each does with a tensor's memory.
#include "anchors/op.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "torch/nvtx.h"
#include "torch/run.h"
#include "torch/tensor.h"

namespace anchor_ext {

// Where two threads begin to be faster than one: bytes of anchors; flags; anchors at indices.
constexpr std::int64_t kGrainBytes = 262144;
constexpr std::int64_t kFlagsGrain = 32768;
constexpr std::int64_t kGatherGrain = 4096;

void generate(const Pyramid& pyramid, Dtype dtype, void* out, Place place) {
  ANCHOR_EXT_RANGE("generate");
  run(
      place, pyramid.num_anchors, kGrainBytes / (pyramid.layout.components * bytes_of(dtype)),
      [&](int device, void* stream) { generate_cuda(pyramid, dtype, out, device, stream); },
      [&](std::int64_t begin, std::int64_t end) { generate_cpu(pyramid, dtype, out, begin, end); });
}

namespace {

namespace stable = torch::stable;
using Integers = std::vector<std::int64_t>;

// Images whose anchors lie one after another.
struct Images {
  const Spec& spec;
  std::vector<ImageShape> shapes;
  Integers begins;  // of each image's anchors among all; and where the last ones end

  Request request(std::size_t image) const { return {{}, shapes[image], {}}; }

  Batch batch(std::size_t first, std::size_t end) const {
    Batch batch{};
    batch.num_anchors = begins[end] - begins[first];
    batch.num_images = static_cast<std::int32_t>(end - first);
    const Integers& levels = spec.parts().pyramid_levels;
    std::transform(levels.begin(), levels.end(), batch.pyramid_levels,
                   [](std::int64_t level) { return static_cast<std::int32_t>(level); });
    for (std::size_t image = first; image < end; ++image)
      batch.images[image - first] = {begins[image] - begins[first], static_cast<std::int32_t>(shapes[image].height),
                                     static_cast<std::int32_t>(shapes[image].width)};
    return batch;
  }
};

Images images_of(const Spec& spec, const Integers& sides) {
  if (sides.size() % 2 != 0) reject("image_shapes: expected two numbers, height and width, per image");
  if (spec.parts().pyramid_levels.empty()) reject("spec has no levels; expected some, which the grids follow from");
  Images images{spec, {}, {0}};
  for (std::size_t i = 0; i < sides.size() / 2; ++i) {
    images.shapes.push_back({sides[2 * i], sides[2 * i + 1]});
    std::int64_t count = 0;
    try {
      count = spec.num_anchors(images.request(i));
    } catch (const std::invalid_argument& error) {
      reject("image_shapes[", i, "]: ", error.what());
    }
    if (count > kMaxNumbers / spec.layout().components - images.begins.back())
      reject("image_shapes has ", sides.size() / 2, " images; expected at most 2**58 - 1 anchors in all");
    images.begins.push_back(images.begins.back() + count);
  }
  return images;
}

void generate_many(const Images& images, Dtype dtype, void* out, Place place) {
  ANCHOR_EXT_RANGE("generate_many");
  const std::int64_t anchor_bytes = images.spec.layout().components * bytes_of(dtype);
  const auto at = [&](std::size_t image) {
    return static_cast<unsigned char*>(out) + images.begins[image] * anchor_bytes;
  };
  const std::size_t count = images.shapes.size();
  if (place.device == Device::cuda)
    return on_cuda(place.index, [&](int device, void* stream) {
      std::size_t end = 0;
      for (std::size_t first = 0; first < count; first = end) {
        const Pyramid pyramid = images.spec.over(images.request(first));
        const bool is_shared = pyramid.plain && !images.spec.parts().strides.empty();  // but for the grids
        end = std::min(first + (is_shared ? kMaxImages : 1), count);
        if (is_shared)
          generate_many_cuda(pyramid, images.batch(first, end), dtype, at(first), device, stream);
        else
          generate_cuda(pyramid, dtype, at(first), device, stream);
      }
    });
  const Integers& begins = images.begins;
  on_cpu(begins.back(), kGrainBytes / anchor_bytes, [&](std::int64_t begin, std::int64_t end) {
    auto image = static_cast<std::size_t>(std::upper_bound(begins.begin(), begins.end(), begin) - begins.begin() - 1);
    for (; image < count && begins[image] < end; ++image)
      generate_cpu(images.spec.over(images.request(image)), dtype, at(image),
                   std::max(begin - begins[image], std::int64_t{0}), std::min(end, begins[image + 1]) - begins[image]);
  });
}

// The operators. The spec is kept by a pointer: another thread's may take its place among the last few.

stable::Tensor generate_op(Sides level_shapes, Text spec_text, Text dtype_name, stable::Device device,
                           Sides image_shape, Sides clip) {
  const auto spec = spec_of(spec_text.view());
  const Pyramid pyramid = spec->over(request_of(level_shapes, image_shape, clip));
  const Dtype dtype = dtype_of(dtype_name.view());
  stable::Tensor out = empty({pyramid.num_anchors, pyramid.layout.components}, scalar_type_of(dtype), device);
  if (device.type() != DeviceType::Meta) generate(pyramid, dtype, out.mutable_data_ptr(), place_of(device));
  return out;
}

stable::Tensor generate_many_op(Integers image_shapes, Text spec_text, Text dtype_name, stable::Device device) {
  const auto spec = spec_of(spec_text.view());
  const Images images = images_of(*spec, image_shapes);
  const Dtype dtype = dtype_of(dtype_name.view());
  stable::Tensor out = empty({images.begins.back(), spec->layout().components}, scalar_type_of(dtype), device);
  if (device.type() != DeviceType::Meta) generate_many(images, dtype, out.mutable_data_ptr(), place_of(device));
  return out;
}

stable::Tensor gather_op(stable::Tensor index, Sides level_shapes, Text spec_text, Text dtype_name, Sides image_shape,
                         Sides clip) {
  const ScalarType index_type = index.scalar_type();
  if (index_type != ScalarType::Long && index_type != ScalarType::Int)
    reject("index is ", shown(index), "; expected int64 or int32");
  if (!index.is_contiguous()) index = stable::contiguous(index);
  const auto spec = spec_of(spec_text.view());
  const Pyramid pyramid = spec->over(request_of(level_shapes, image_shape, clip));
  const Dtype dtype = dtype_of(dtype_name.view());
  const std::int64_t count = index.numel();
  Integers sizes(index.sizes().begin(), index.sizes().end());
  sizes.push_back(pyramid.layout.components);
  if (count > 0 && pyramid.num_anchors == 0)
    reject("index has ", count, " entries; expected none, for level_shapes without cells");
  const stable::Device device = index.device();
  stable::Tensor out = empty(sizes, scalar_type_of(dtype), device);
  if (device.type() == DeviceType::Meta || count == 0) return out;
  if (index.const_data_ptr() == nullptr) reject("index is ", shown(index), " without memory; expected one with memory");
  ANCHOR_EXT_RANGE("gather");
  const Indices indices{index.const_data_ptr(), index_type == ScalarType::Long ? 8 : 4};
  void* const memory = out.mutable_data_ptr();
  run(
      place_of(device), count, kGatherGrain,
      [&](int at, void* stream) { gather_cuda(pyramid, indices, count, dtype, memory, at, stream); },
      [&](std::int64_t begin, std::int64_t end) { gather_cpu(pyramid, indices, dtype, memory, begin, end); });
  return out;
}

stable::Tensor flags(const Pyramid& pyramid, const AnchorPredicate& predicate, stable::Device device) {
  stable::Tensor out = empty({pyramid.num_anchors}, ScalarType::Bool, device);
  if (device.type() == DeviceType::Meta) return out;
  ANCHOR_EXT_RANGE("flags");
  auto* const memory = static_cast<bool*>(out.mutable_data_ptr());
  run(
      place_of(device), pyramid.num_anchors, kFlagsGrain,
      [&](int at, void* stream) { flags_cuda(pyramid, predicate, memory, at, stream); },
      [&](std::int64_t begin, std::int64_t end) { flags_cpu(pyramid, predicate, memory, begin, end); });
  return out;
}

stable::Tensor inside_op(Sides level_shapes, Text spec_text, Integers image_shape, double border, Text dtype,
                         stable::Device device) {
  const Request request = request_of(level_shapes, image_shape, {});
  const Pyramid pyramid = spec_of(spec_text.view())->over(request);
  return flags(pyramid, inside_predicate(pyramid, *request.image_shape, border, dtype_of(dtype.view())), device);
}

stable::Tensor valid_flags_op(Sides level_shapes, Text spec_text, Integers padded_shape, stable::Device device,
                              Sides image_shape) {
  const auto spec = spec_of(spec_text.view());
  const Request request = request_of(level_shapes, image_shape, {});
  const Pyramid pyramid = spec->over(request);
  const ImageShape padded = image_shape_of("padded_shape", padded_shape);
  return flags(pyramid, valid_predicate(*spec, pyramid, request, padded), device);
}

}  // namespace

// The spec is the whole configuration: nothing is registered, nothing hidden. docs/operators.md says what every
// argument means, and which changes to the schemas saved programs forbid.
STABLE_TORCH_LIBRARY_FRAGMENT(anchor_ext, m) {
  m.def(
      "generate(SymInt[]? level_shapes, str spec, *, str dtype, Device device, SymInt[]? image_shape=None, "
      "SymInt[]? clip=None) -> Tensor");
  m.def("generate_many(SymInt[] image_shapes, str spec, *, str dtype, Device device) -> Tensor");
  m.def(
      "gather(Tensor index, SymInt[]? level_shapes, str spec, *, str dtype, SymInt[]? image_shape=None, "
      "SymInt[]? clip=None) -> Tensor");
  m.def(
      "inside(SymInt[]? level_shapes, str spec, SymInt[] image_shape, float border=0., *, str dtype, Device device) -> "
      "Tensor");
  m.def(
      "valid_flags(SymInt[]? level_shapes, str spec, SymInt[] padded_shape, *, Device device, "
      "SymInt[]? image_shape=None) -> Tensor");
}

// The kernels look at the device themselves: most operators have no tensor among their arguments to dispatch on.
STABLE_TORCH_LIBRARY_IMPL(anchor_ext, CompositeExplicitAutograd, m) {
  m.impl("generate", TORCH_BOX(&generate_op));
  m.impl("generate_many", TORCH_BOX(&generate_many_op));
  m.impl("gather", TORCH_BOX(&gather_op));
  m.impl("inside", TORCH_BOX(&inside_op));
  m.impl("valid_flags", TORCH_BOX(&valid_flags_op));
}

}  // namespace anchor_ext
