// A thread per item: its anchor, and what is made of it.
#include <algorithm>

#include "boxes/boxes.h"
#include "core/launch.h"

namespace anchor_ext {
namespace {

// What the kernels share beside the pyramid: some images of a batch, from the first one on.
struct Task {
  Coder coder;
  std::int64_t images, of_image;
  Indices indices;
  std::int32_t sides;  // 0, 1, or as many as images
  struct {
    std::int32_t height, width;
  } of_images[kMaxCodedImages];
};

// An item of these images.
struct Own {
  bool exists;
  std::int64_t item, image;
  Box<float> anchor;
};

__device__ inline Own own_item(const Pyramid& pyramid, const Task& task) {
  Own own{};
  own.item = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  own.exists = own.item < task.images * task.of_image;
  if (!own.exists) return own;
  own.image = own.item / task.of_image;
  const std::int64_t flat = task.indices.memory == nullptr ? own.item - own.image * task.of_image
                                                           : wrapped(pyramid, index_at(task.indices, own.item));
  own.anchor = box_at(pyramid, flat);
  return own;
}

template <typename C>
__device__ inline Limits<C> limits_along(const Task& task, const Own& own, int axis) {
  if (task.sides == 0) return limits_of<C>(Limited::not_at_all, 0);
  const auto& of_image = task.of_images[task.sides == 1 ? 0 : own.image];
  return limits_of<C>(task.coder.limited, axis == 0 ? of_image.width : of_image.height);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    decode_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Task task, const T* deltas,
                  Computed<T>* out) {
  using C = Computed<T>;
  const Own own = own_item(pyramid, task);
  if (!own.exists) return;
  for (int axis = 0; axis < 2; ++axis) {
    const T* const delta = deltas + 4 * own.item + shift_at(task.coder, axis);
    const Ends<C> ends =
        limited(decoded(task.coder.scaling, along<C>(task.coder, axis), extent_along<C>(task.coder, own.anchor, axis),
                        widened(delta[0]), widened(delta[2])),
                limits_along<C>(task, own, axis));
    out[4 * own.item + axis] = ends.low;
    out[4 * own.item + axis + 2] = ends.high;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    decode_gradient_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Task task,
                           const Computed<T>* grad, const T* deltas, T* out) {
  using C = Computed<T>;
  const Own own = own_item(pyramid, task);
  if (!own.exists) return;
  for (int axis = 0; axis < 2; ++axis) {
    const std::int64_t at = 4 * own.item + shift_at(task.coder, axis);
    const C* const by_box = grad + 4 * own.item + axis;
    const Delta<C> made = decoded_gradient(
        task.coder.scaling, along<C>(task.coder, axis), extent_along<C>(task.coder, own.anchor, axis),
        widened(deltas[at]), widened(deltas[at + 2]), limits_along<C>(task, own, axis), Ends<C>{by_box[0], by_box[2]});
    out[at] = round_to<T>(made.shift);
    out[at + 2] = round_to<T>(made.size);
  }
}

template <typename C>
__global__ void __launch_bounds__(kThreads)
    encode_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Task task, const Box<C>* boxes,
                  C* out) {
  const Own own = own_item(pyramid, task);
  if (own.exists) encode_one(task.coder, own.anchor, boxes[own.item], out + 4 * own.item);
}

template <typename C>
__global__ void __launch_bounds__(kThreads)
    encode_gradient_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Task task, const C* grad,
                           const Box<C>* boxes, Box<C>* out) {
  const Own own = own_item(pyramid, task);
  if (own.exists) out[own.item] = encode_gradient_one(task.coder, own.anchor, boxes[own.item], grad + 4 * own.item);
}

// Where some images' boxes begin among all; and where the last ones end.
struct Begins {
  std::int64_t begins[kMaxCodedImages + 1];
};

template <typename C>
__global__ void __launch_bounds__(kThreads)
    targets_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Coder coder,
                   const __grid_constant__ Begins begins, std::int64_t images, const Matched<C> matched,
                   const Targets<C> targets) {
  const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= images * pyramid.num_anchors) return;
  const std::int64_t image = item / pyramid.num_anchors, begin = begins.begins[image];
  target_of(pyramid, coder, matched, targets, image, begin, begins.begins[image + 1] - begin,
            item - image * pyramid.num_anchors);
}

static_assert(sizeof(Pyramid) + sizeof(Task) + 128 <= 32764, "both must fit a kernel's parameters");
static_assert(sizeof(Pyramid) + sizeof(Coder) + sizeof(Begins) + 128 <= 32764, "these, too");

// Calls per_part(task, first item, how many) for some images at a time.
template <typename PerPart>
void for_parts(const Coder& coder, const Items& items, const ImageSides& sides, const PerPart& per_part) {
  for (std::int64_t first = 0; first < items.images; first += kMaxCodedImages) {
    const std::int64_t images = std::min<std::int64_t>(items.images - first, kMaxCodedImages);
    Task task{coder, images, items.of_image, items.indices, 0, {}};
    const std::int64_t item = first * items.of_image;
    if (items.indices.memory != nullptr)
      task.indices.memory = static_cast<const char*>(items.indices.memory) + item * items.indices.bytes;
    task.sides = static_cast<std::int32_t>(sides.count > 1 ? images : sides.count);
    for (std::int32_t i = 0; i < task.sides; ++i) {
      const ImageSide& own = sides.sides[sides.count > 1 ? first + i : 0];
      task.of_images[i] = {static_cast<std::int32_t>(own.height), static_cast<std::int32_t>(own.width)};
    }
    if (sides.count > 1 && images == 1) task.sides = 1;
    per_part(task, item, blocks_of(images * items.of_image));
  }
}

}  // namespace

template <typename T>
void decode_cuda(const Pyramid& pyramid, const Coder& coder, const Items& items, const ImageSides& sides,
                 const T* deltas, Computed<T>* out, int device, void* stream) {
  for_parts(coder, items, sides, [&](const Task& task, std::int64_t item, std::int64_t blocks) {
    launch(decode_kernel<T>, blocks, device, stream, "the launch of decode", pyramid, task, deltas + 4 * item,
           out + 4 * item);
  });
}

template <typename T>
void decode_gradient_cuda(const Pyramid& pyramid, const Coder& coder, const Items& items, const ImageSides& sides,
                          const Computed<T>* grad, const T* deltas, T* out, int device, void* stream) {
  for_parts(coder, items, sides, [&](const Task& task, std::int64_t item, std::int64_t blocks) {
    launch(decode_gradient_kernel<T>, blocks, device, stream, "the launch of decode's gradient", pyramid, task,
           grad + 4 * item, deltas + 4 * item, out + 4 * item);
  });
}

template <typename C>
void encode_cuda(const Pyramid& pyramid, const Coder& coder, const Indices& indices, std::int64_t count,
                 const Box<C>* boxes, C* out, int device, void* stream) {
  const Task task{coder, 1, count, indices, 0, {}};
  launch(encode_kernel<C>, blocks_of(count), device, stream, "the launch of encode", pyramid, task, boxes, out);
}

template <typename C>
void encode_gradient_cuda(const Pyramid& pyramid, const Coder& coder, const Indices& indices, std::int64_t count,
                          const C* grad, const Box<C>* boxes, Box<C>* out, int device, void* stream) {
  const Task task{coder, 1, count, indices, 0, {}};
  launch(encode_gradient_kernel<C>, blocks_of(count), device, stream, "the launch of encode's gradient", pyramid, task,
         grad, boxes, out);
}

template <typename C>
void targets_cuda(const Pyramid& pyramid, const Coder& coder, const Matched<C>& matched, const std::int64_t* begins,
                  std::int64_t images, const Targets<C>& targets, int device, void* stream) {
  for (std::int64_t first = 0; first < images; first += kMaxCodedImages) {
    const std::int64_t some = std::min<std::int64_t>(images - first, kMaxCodedImages);
    const std::int64_t item = first * pyramid.num_anchors;
    Begins of_some{};
    std::copy_n(begins + first, some + 1, of_some.begins);
    const Matched<C> of_matched{matched.boxes, matched.labels, matched.matched + item};
    const Targets<C> to{targets.deltas + 4 * item, targets.labels + item};
    launch(targets_kernel<C>, blocks_of(some * pyramid.num_anchors), device, stream, "the launch of targets", pyramid,
           coder, of_some, some, of_matched, to);
  }
}

#define ANCHOR_EXT_DECODE(T)                                                                                       \
  template void decode_cuda(const Pyramid&, const Coder&, const Items&, const ImageSides&, const T*, Computed<T>*, \
                            int, void*);                                                                           \
  template void decode_gradient_cuda(const Pyramid&, const Coder&, const Items&, const ImageSides&,                \
                                     const Computed<T>*, const T*, T*, int, void*);
ANCHOR_EXT_DECODE(float)
ANCHOR_EXT_DECODE(double)
ANCHOR_EXT_DECODE(Float16)
ANCHOR_EXT_DECODE(BFloat16)
#undef ANCHOR_EXT_DECODE

#define ANCHOR_EXT_ENCODE(C)                                                                                     \
  template void encode_cuda(const Pyramid&, const Coder&, const Indices&, std::int64_t, const Box<C>*, C*, int,  \
                            void*);                                                                              \
  template void encode_gradient_cuda(const Pyramid&, const Coder&, const Indices&, std::int64_t, const C*,       \
                                     const Box<C>*, Box<C>*, int, void*);                                        \
  template void targets_cuda(const Pyramid&, const Coder&, const Matched<C>&, const std::int64_t*, std::int64_t, \
                             const Targets<C>&, int, void*);
ANCHOR_EXT_ENCODE(float)
ANCHOR_EXT_ENCODE(double)
#undef ANCHOR_EXT_ENCODE

}  // namespace anchor_ext
