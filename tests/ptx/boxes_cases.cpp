// The kernels of csrc/boxes: the CPU's results, of any pyramid, coder, deltas and boxes.
#include "boxes/boxes.h"
#include "memory.h"
#include "pyramids.h"

using namespace anchor_ext;
using namespace cases;

namespace {

double some_delta() {
  const std::int64_t kind = integer(0, 60);
  return kind == 0 ? uniform(-200, 200) : kind == 1 ? 0.0 / uniform(0, 0.0) : uniform(-3, 3);
}

template <typename T>
void check_decode(const char* text) {
  using C = Computed<T>;
  const Pyramid pyramid = some_pyramid();
  const Coder coder = coder_of(text);
  const bool chosen = integer(0, 1) == 0;
  Items items{integer(1, 3), chosen ? integer(1, 400) : pyramid.num_anchors, {}};
  const auto count = static_cast<std::size_t>(items.images * items.of_image);
  std::vector<std::int64_t> index(count);
  for (std::int64_t& one : index) one = integer(-3 * pyramid.num_anchors, 3 * pyramid.num_anchors);
  std::vector<ImageSide> sides;
  for (std::int64_t i = integer(0, 2) == 0 ? 0 : integer(0, 1) == 0 ? 1 : items.images; i > 0; --i)
    sides.push_back({integer(1, 300), integer(1, 300)});
  const ImageSides limits{sides.data(), static_cast<std::int64_t>(sides.size())};
  std::vector<T> deltas(4 * count);
  for (T& delta : deltas) delta = round_to<T>(some_delta());
  std::vector<C> grad(4 * count);
  for (C& one : grad) one = static_cast<C>(uniform(-2, 2));
  Input input;
  const std::size_t of_index = input.add(index), of_deltas = input.add(deltas), of_grad = input.add(grad);
  const auto with = [&](const std::int64_t* memory) {
    Items made = items;
    if (chosen) made.indices = {memory, 8};
    return made;
  };

  std::vector<C> boxes(4 * count);
  std::vector<T> gradient(4 * count);
  decode_cpu(pyramid, coder, with(index.data()), limits, deltas.data(), boxes.data(), 0,
             static_cast<std::int64_t>(count));
  decode_gradient_cpu(pyramid, coder, with(index.data()), limits, grad.data(), deltas.data(), gradient.data(), 0,
                      static_cast<std::int64_t>(count));
  const Bytes made_boxes = made(
      boxes.size() * sizeof(C), 0,
      [&](void* out, const void* in) {
        decode_cuda(pyramid, coder, with(at<std::int64_t>(in, of_index)), limits, at<T>(in, of_deltas),
                    static_cast<C*>(out), device, nullptr);
      },
      input.bytes.data(), input.bytes.size());
  compare(std::string("decode ") + text, bytes_in(boxes), made_boxes, kDtype<C>);
  const Bytes made_gradient = made(
      gradient.size() * sizeof(T), 0,
      [&](void* out, const void* in) {
        decode_gradient_cuda(pyramid, coder, with(at<std::int64_t>(in, of_index)), limits, at<C>(in, of_grad),
                             at<T>(in, of_deltas), static_cast<T*>(out), device, nullptr);
      },
      input.bytes.data(), input.bytes.size());
  compare(std::string("the gradient of decode ") + text, bytes_in(gradient), made_gradient, kDtype<T>);
}

template <typename C>
void check_encode(const char* text) {
  const Pyramid pyramid = some_pyramid();
  const Coder coder = coder_of(text);
  const std::int64_t count = integer(1, 400);
  std::vector<std::int32_t> index;
  std::vector<Box<C>> boxes;
  std::vector<C> grad;
  for (std::int64_t i = 0; i < count; ++i) {
    index.push_back(static_cast<std::int32_t>(integer(-2 * pyramid.num_anchors, 2 * pyramid.num_anchors)));
    boxes.push_back(some_box<C>());
    for (int k = 0; k < 4; ++k) grad.push_back(static_cast<C>(uniform(-2, 2)));
  }
  Input input;
  const std::size_t of_index = input.add(index), of_boxes = input.add(boxes), of_grad = input.add(grad);
  std::vector<C> deltas(grad.size());
  std::vector<Box<C>> gradient(boxes.size());
  encode_cpu(pyramid, coder, {index.data(), 4}, boxes.data(), deltas.data(), 0, count);
  encode_gradient_cpu(pyramid, coder, {index.data(), 4}, grad.data(), boxes.data(), gradient.data(), 0, count);
  const Bytes made_deltas = made(
      deltas.size() * sizeof(C), 0,
      [&](void* out, const void* in) {
        encode_cuda(pyramid, coder, {at<std::int32_t>(in, of_index), 4}, count, at<Box<C>>(in, of_boxes),
                    static_cast<C*>(out), device, nullptr);
      },
      input.bytes.data(), input.bytes.size());
  compare(std::string("encode ") + text, bytes_in(deltas), made_deltas, kDtype<C>);
  const Bytes made_gradient = made(
      gradient.size() * sizeof(Box<C>), 0,
      [&](void* out, const void* in) {
        encode_gradient_cuda(pyramid, coder, {at<std::int32_t>(in, of_index), 4}, count, at<C>(in, of_grad),
                             at<Box<C>>(in, of_boxes), static_cast<Box<C>*>(out), device, nullptr);
      },
      input.bytes.data(), input.bytes.size());
  compare(std::string("the gradient of encode ") + text, bytes_in(gradient), made_gradient, kDtype<C>);
}

template <typename C>
void check_targets(const char* text) {
  const Pyramid pyramid = some_pyramid();
  const Coder coder = coder_of(text);
  const std::int64_t images = integer(1, 3), anchors = images * pyramid.num_anchors;
  std::vector<std::int64_t> begins{0}, labels, matched;
  std::vector<Box<C>> boxes;
  for (std::int64_t image = 0; image < images; ++image) {
    const std::int64_t count = integer(0, 4);
    for (std::int64_t i = 0; i < count; ++i) {
      boxes.push_back(some_box<C>());
      labels.push_back(integer(0, 90));
    }
    begins.push_back(begins.back() + count);
    for (std::int64_t i = 0; i < pyramid.num_anchors; ++i)
      matched.push_back(integer(0, 3) == 0 ? integer(-3, count) : integer(-3, -1));  // also one that is none of them
  }
  Input input;
  const std::size_t of_boxes = input.add(boxes), of_labels = input.add(labels), of_matched = input.add(matched);
  std::vector<C> deltas(static_cast<std::size_t>(4 * anchors));
  std::vector<std::int64_t> own(static_cast<std::size_t>(anchors));
  const Targets<C> here{deltas.data(), own.data()};
  targets_cpu(pyramid, coder, Matched<C>{boxes.data(), labels.data(), matched.data()}, begins.data(), here, 0, anchors);
  const Bytes both = made(
      8 * own.size() + sizeof(C) * deltas.size(), 0,
      [&](void* out, const void* in) {
        auto* const to = static_cast<std::int64_t*>(out);
        const Matched<C> given{at<Box<C>>(in, of_boxes), at<std::int64_t>(in, of_labels),
                               at<std::int64_t>(in, of_matched)};
        const Targets<C> there{reinterpret_cast<C*>(to + anchors), to};
        targets_cuda(pyramid, coder, given, begins.data(), images, there, device, nullptr);
      },
      input.bytes.data(), input.bytes.size());
  const auto middle = both.begin() + static_cast<std::ptrdiff_t>(8 * own.size());
  compare(std::string("labels of targets ") + text, bytes_in(own), Bytes(both.begin(), middle), Dtype::float64);
  compare(std::string("targets ") + text, bytes_in(deltas), Bytes(middle, both.end()), kDtype<C>);
}

void check_all() {
  for (const char* const text : kCoders)
    for (int i = 0; i < 4; ++i) {
      check_decode<float>(text);
      check_decode<double>(text);
      check_decode<Float16>(text);
      check_decode<BFloat16>(text);
      check_encode<float>(text);
      check_encode<double>(text);
      check_targets<float>(text);
      check_targets<double>(text);
    }
}

const bool known = add(check_all);

}  // namespace
