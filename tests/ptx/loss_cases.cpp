// The kernels of csrc/loss: the CPU's results, of any logits, deltas, matches, labels and boxes.
#include <algorithm>

#include "core/spec.h"
#include "loss/box_loss.h"
#include "loss/focal.h"
#include "memory.h"
#include "pyramids.h"

using namespace anchor_ext;
using namespace cases;

namespace {

// Of a batch: how many boxes each image has, and some index of them, or none, for every anchor.
struct Matches {
  BoxBegins begins{};
  std::vector<std::int64_t> matched;

  Matches(std::int32_t images, std::int64_t anchors) {
    for (std::int32_t image = 0; image < images; ++image) {
      const std::int64_t count = integer(0, 4);
      begins.begins[image + 1] = begins.begins[image] + static_cast<std::int32_t>(count);
      for (std::int64_t i = 0; i < anchors; ++i)
        matched.push_back(integer(0, 4) == 0 && count > 0 ? integer(0, count - 1) : integer(-3, -1));
    }
  }
};

// A loss and [images] weights, as the CPU has them.
template <typename C>
Bytes result_of(C loss, const std::vector<double>& weights) {
  Bytes bytes = bytes_in(weights);
  const Bytes last = bytes_in(std::vector<C>{loss});
  bytes.insert(bytes.end(), last.begin(), last.end());
  return bytes;
}
template <typename C>
LossResult<C> result_at(void* out, std::int32_t images) {
  auto* const weights = static_cast<double*>(out);
  return {reinterpret_cast<C*>(weights + images), weights};
}
template <typename C>
constexpr Dtype kComputed = sizeof(C) == 8 ? Dtype::float64 : Dtype::float32;

Focal some_focal(double alpha, double gamma, std::int64_t most) {
  Focal focal{};
  focal.images = static_cast<std::int32_t>(integer(1, 3));
  focal.classes = integer(1, 90);
  focal.alpha = alpha;
  focal.gamma = gamma;
  focal.normalize = integer(0, 1) == 0;
  focal.by_classes = divider_of(focal.classes);
  const bool is_flat = integer(0, 1) == 0;
  for (std::int64_t p = is_flat ? 1 : integer(1, 4); p > 0; --p) {
    FocalPart part{focal.anchors, 0, integer(1, most), focal.tiles, {}};
    if (!is_flat) {
      part.cells = integer(1, 40);
      part.cell_anchors = integer(1, 9);
      part.by_cells = divider_of(part.cells);
    }
    focal.anchors += part.cell_anchors * (is_flat ? 1 : part.cells);
    focal.tiles += (logits_of_part(focal, part) + kTile - 1) / kTile;
    focal.parts[focal.num_parts++] = part;
  }
  return focal;
}

template <typename T>
void check_focal(double alpha, double gamma, std::int64_t most) {
  using C = Computed<T>;
  const Focal focal = some_focal(alpha, gamma, most);
  const Matches matches(focal.images, focal.anchors);
  std::vector<std::int64_t> labels;
  for (std::int32_t i = 0; i < matches.begins.begins[focal.images]; ++i)
    labels.push_back(integer(0, focal.classes - 1));
  std::vector<T> logits;  // of all parts
  std::vector<std::size_t> begins;
  for (std::int32_t p = 0; p < focal.num_parts; ++p) {
    begins.push_back(logits.size());
    for (std::int64_t i = 0; i < focal.images * logits_of_part(focal, focal.parts[p]); ++i)
      logits.push_back(round_to<T>(integer(0, 50) == 0 ? uniform(-300, 300) : uniform(-12, 8)));
  }
  Input input;
  const std::size_t of_logits = input.add(logits), of_matched = input.add(matches.matched);
  const std::size_t of_labels = input.add(labels);
  const auto tensors = [&](const T* x, const std::int64_t* matched, const std::int64_t* classes) {
    FocalTensors<T> made{{}, matched, classes};
    for (std::size_t p = 0; p < begins.size(); ++p) made.logits[p] = x + begins[p];
    return made;
  };
  const auto on_device = [&](const void* in) {
    return tensors(at<T>(in, of_logits), at<std::int64_t>(in, of_matched), at<std::int64_t>(in, of_labels));
  };
  const FocalTensors<T> here = tensors(logits.data(), matches.matched.data(), labels.data());

  const auto tiles = static_cast<std::size_t>(focal.tiles * focal.images);
  std::vector<double> sums(tiles), weights(static_cast<std::size_t>(focal.images));
  C loss = 0;
  const MarkedAnchors marked = marked_anchors(focal, matches.matched.data());
  focal_tiles_cpu(focal, here, matches.begins, marked, sums.data(), 0, static_cast<std::int64_t>(tiles));
  finish_cpu(summation_of(focal), matches.matched.data(), sums.data(), LossResult<C>{&loss, weights.data()});
  const Bytes by_cpu = result_of(loss, weights);
  const Bytes result = made(
      by_cpu.size(), 0,
      [&](void* out, const void* in) {
        const Scratch there(8 * tiles), positives(4 * tiles);
        focal_tiles_cuda<T>(focal, on_device(in), matches.begins, there.as<double>(), positives.as<std::int32_t>(),
                            device, nullptr);
        finish_cuda(summation_of(focal), there.as<double>(), positives.as<std::int32_t>(),
                    result_at<C>(out, focal.images), device, nullptr);
      },
      input.bytes.data(), input.bytes.size());
  compare("the focal loss", by_cpu, result, kComputed<C>);

  std::vector<T> gradient(logits.size());
  const C grad = static_cast<C>(uniform(-2, 2));
  const auto parts_of = [&](T* to) {
    std::vector<T*> parts;
    for (const std::size_t begin : begins) parts.push_back(to + begin);
    return parts;
  };
  focal_gradient_cpu(focal, here, matches.begins, marked, &grad, weights.data(), parts_of(gradient.data()).data(), 0,
                     static_cast<std::int64_t>(tiles));
  const std::size_t of_grad = input.add(std::vector<C>{grad}), of_weights = input.add(weights);
  const Bytes made_gradient = made(
      gradient.size() * sizeof(T), 0,
      [&](void* out, const void* in) {
        focal_gradient_cuda<T>(focal, on_device(in), matches.begins, at<C>(in, of_grad), at<double>(in, of_weights),
                               parts_of(static_cast<T*>(out)).data(), device, nullptr);
      },
      input.bytes.data(), input.bytes.size());
  compare("the gradient of the focal loss", bytes_in(gradient), made_gradient, kDtype<T>);
}

template <typename T>
void check_box_loss(BoxLossKind kind, const char* coder, double beta) {
  using C = Computed<T>;
  const Pyramid pyramid = some_pyramid();
  const BoxLoss of{
      kind, beta, coder_of(coder), pyramid.num_anchors, static_cast<std::int32_t>(integer(1, 3)), integer(0, 1) == 0};
  const Matches matches(of.images, of.anchors);
  std::vector<Box<double>> boxes;
  for (std::int32_t i = 0; i < matches.begins.begins[of.images]; ++i) boxes.push_back(some_box<double>());
  std::vector<T> deltas;
  for (std::int64_t i = 0; i < 4 * of.images * of.anchors; ++i) deltas.push_back(round_to<T>(uniform(-2, 2)));
  Input input;
  const std::size_t of_deltas = input.add(deltas), of_matched = input.add(matches.matched);
  const std::size_t of_boxes = input.add(boxes);
  const BoxLossTensors<T> here{deltas.data(), matches.matched.data(), boxes.data()};
  const auto on_device = [&](const void* in) {
    return BoxLossTensors<T>{at<T>(in, of_deltas), at<std::int64_t>(in, of_matched), at<Box<double>>(in, of_boxes)};
  };

  const Summation summation = summation_of(of);
  const auto tiles = static_cast<std::size_t>(summation.tiles * of.images);
  std::vector<double> sums(tiles), weights(static_cast<std::size_t>(of.images));
  C loss = 0;
  box_loss_tiles_cpu(pyramid, of, here, matches.begins, sums.data(), 0, static_cast<std::int64_t>(tiles));
  finish_cpu(summation, matches.matched.data(), sums.data(), LossResult<C>{&loss, weights.data()});
  const Bytes by_cpu = result_of(loss, weights);
  const Bytes result = made(
      by_cpu.size(), 0,
      [&](void* out, const void* in) {
        const Scratch there(8 * tiles), positives(4 * tiles);
        box_loss_tiles_cuda(pyramid, of, on_device(in), matches.begins, there.as<double>(),
                            positives.as<std::int32_t>(), device, nullptr);
        finish_cuda(summation, there.as<double>(), positives.as<std::int32_t>(), result_at<C>(out, of.images), device,
                    nullptr);
      },
      input.bytes.data(), input.bytes.size());
  compare("the box loss", by_cpu, result, kComputed<C>);

  std::vector<T> gradient(deltas.size());
  const C grad = static_cast<C>(uniform(-2, 2));
  box_loss_gradient_cpu(pyramid, of, here, matches.begins, double{grad}, weights.data(), gradient.data(), 0,
                        static_cast<std::int64_t>(tiles));
  const std::size_t of_grad = input.add(std::vector<C>{grad}), of_weights = input.add(weights);
  const Bytes made_gradient = made(
      gradient.size() * sizeof(T), 0,
      [&](void* out, const void* in) {
        box_loss_gradient_cuda(pyramid, of, on_device(in), matches.begins, at<C>(in, of_grad),
                               at<double>(in, of_weights), static_cast<T*>(out), device, nullptr);
      },
      input.bytes.data(), input.bytes.size());
  compare("the gradient of the box loss", bytes_in(gradient), made_gradient, kDtype<T>);
}

template <typename T>
void check_box_losses() {
  for (const char* const coder : kCoders) {
    check_box_loss<T>(BoxLossKind::giou, coder, 0);
    check_box_loss<T>(BoxLossKind::smooth_l1, coder, integer(0, 1) == 0 ? 0 : uniform(0.05, 1));
  }
}

void check_all() {
  const double forms[][2] = {{0.25, 2}, {-1, 2}, {0.7, 1.5}, {0.5, 0}};
  for (const auto& [alpha, gamma] : forms)
    for (int i = 0; i < 4; ++i) {
      check_focal<float>(alpha, gamma, 60);
      check_focal<double>(alpha, gamma, 60);
      check_focal<Float16>(alpha, gamma, 60);
      check_focal<BFloat16>(alpha, gamma, 60);
    }
  for (int i = 0; i < 2; ++i) check_focal<float>(0.25, 2, 900);  // more tiles than one
  check_box_losses<float>();
  check_box_losses<double>();
  check_box_losses<Float16>();
  check_box_losses<BFloat16>();
}

const bool known = add(check_all);

}  // namespace
