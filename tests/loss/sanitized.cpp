// Losses on the CPU under the sanitizers: random logits of both layouts, deltas, matches, labels and boxes of all
// types, also of nothing.
#include <cstdio>
#include <random>
#include <vector>

#include "core/spec.h"
#include "loss/box_loss.h"
#include "loss/focal.h"

using namespace anchor_ext;

namespace {

std::mt19937_64 rng(1);
std::int64_t integer(std::int64_t a, std::int64_t b) {
  return a + static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(b - a + 1));
}

struct Matches {
  BoxBegins begins{};
  std::vector<std::int64_t> matched;

  Matches(std::int32_t images, std::int64_t anchors, bool with_boxes) {
    for (std::int32_t image = 0; image < images; ++image) {
      const std::int64_t count = with_boxes ? integer(0, 3) : 0;
      begins.begins[image + 1] = begins.begins[image] + static_cast<std::int32_t>(count);
      for (std::int64_t i = 0; i < anchors; ++i)
        matched.push_back(count > 0 && integer(0, 3) == 0 ? integer(0, count - 1) : integer(-3, -1));
    }
  }
};

template <typename T>
void focal() {
  Focal focal{};
  focal.classes = integer(0, 95);
  focal.images = static_cast<std::int32_t>(integer(1, 3));
  focal.alpha = 0.25;
  focal.gamma = integer(0, 1) ? 2.0 : 1.5;
  focal.normalize = true;
  focal.by_classes = divider_of(focal.classes);
  const bool is_flat = integer(0, 1) == 0;
  for (std::int64_t p = is_flat ? 1 : integer(1, 4); p > 0; --p) {
    FocalPart part{
        focal.anchors, is_flat ? 0 : integer(1, 60), is_flat ? integer(0, 400) : integer(1, 9), focal.tiles, {}};
    part.by_cells = divider_of(part.cells);
    focal.anchors += part.cell_anchors * (is_flat ? 1 : part.cells);
    focal.tiles += (logits_of_part(focal, part) + kTile - 1) / kTile;
    focal.parts[focal.num_parts++] = part;
  }
  const Matches matches(focal.images, focal.anchors, focal.classes > 0);
  std::vector<std::int64_t> labels;
  for (std::int32_t i = 0; i < matches.begins.begins[focal.images]; ++i)
    labels.push_back(integer(0, focal.classes - 1));
  std::vector<std::vector<T>> logits, gradients;  // each its own, so that what lies beside it is seen
  FocalTensors<T> tensors{{}, matches.matched.data(), labels.data()};
  std::vector<T*> out;
  for (std::int32_t p = 0; p < focal.num_parts; ++p) {
    gradients.emplace_back(static_cast<std::size_t>(focal.images * logits_of_part(focal, focal.parts[p])));
    logits.emplace_back();
    for (std::size_t i = 0; i < gradients.back().size(); ++i)
      logits.back().push_back(round_to<T>(static_cast<double>(integer(-200, 200))));
  }
  for (std::int32_t p = 0; p < focal.num_parts; ++p) {
    tensors.logits[p] = logits[p].data();
    out.push_back(gradients[p].data());
  }
  const std::int64_t tiles = focal.tiles * focal.images;
  std::vector<double> sums(static_cast<std::size_t>(tiles)), weights(static_cast<std::size_t>(focal.images));
  Computed<T> loss = 0;
  const MarkedAnchors marked = marked_anchors(focal, matches.matched.data());
  focal_tiles_cpu(focal, tensors, matches.begins, marked, sums.data(), 0, tiles);
  finish_cpu(summation_of(focal), matches.matched.data(), sums.data(), LossResult<Computed<T>>{&loss, weights.data()});
  focal_gradient_cpu(focal, tensors, matches.begins, marked, &loss, weights.data(), out.data(), 0, tiles);
}

template <typename T>
void box_loss() {
  const Pyramid pyramid = Spec("anchors/1;strides=8,8 16,9;cell_anchors=-8,-8,8,8 -9,-4,9,4|-16,-16,16,16")
                              .over({{{integer(0, 6), integer(1, 9)}, {integer(1, 3), integer(1, 5)}}, {}, {}});
  const BoxLoss of{integer(0, 1) ? BoxLossKind::giou : BoxLossKind::smooth_l1,
                   integer(0, 1) * 0.1,
                   coder_of(integer(0, 1) ? "coder/1;stds=0.1,0.1,0.2,0.2;min_side=1" : "coder/1;order=yxhw"),
                   pyramid.num_anchors,
                   static_cast<std::int32_t>(integer(0, 3)),
                   true};
  const Matches matches(of.images, of.anchors, true);
  std::vector<Box<double>> boxes;
  for (std::int32_t i = 0; i < matches.begins.begins[of.images]; ++i) {
    const auto x = static_cast<double>(integer(-9, 90)), y = static_cast<double>(integer(-9, 90));
    boxes.push_back({x, y, x + static_cast<double>(integer(0, 50)), y + static_cast<double>(integer(0, 50))});
  }
  std::vector<T> deltas, gradient(static_cast<std::size_t>(4 * of.images * of.anchors));
  for (std::size_t i = 0; i < gradient.size(); ++i)
    deltas.push_back(round_to<T>(static_cast<double>(integer(-400, 400)) / 100));
  const BoxLossTensors<T> tensors{deltas.data(), matches.matched.data(), boxes.data()};
  const std::int64_t tiles = tiles_of_image(of) * of.images;
  std::vector<double> sums(static_cast<std::size_t>(tiles)), weights(static_cast<std::size_t>(of.images));
  double loss = 0;
  box_loss_tiles_cpu(pyramid, of, tensors, matches.begins, sums.data(), 0, tiles);
  finish_cpu(summation_of(of), matches.matched.data(), sums.data(), LossResult<double>{&loss, weights.data()});
  box_loss_gradient_cpu(pyramid, of, tensors, matches.begins, loss, weights.data(), gradient.data(), 0, tiles);
}

template <typename T>
void run() {
  focal<T>();
  box_loss<T>();
}

}  // namespace

int main() {
  for (int i = 0; i < 60; ++i) {
    run<float>();
    run<double>();
    run<Float16>();
    run<BFloat16>();
  }
  std::puts("all ran");
}
