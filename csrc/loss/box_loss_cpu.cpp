#include <algorithm>

#include "core/spec.h"
#include "loss/box_loss.h"

namespace anchor_ext {
namespace {

// Calls per_tile(image, tile of all, first anchor, how many).
template <typename PerTile>
void for_tiles(const BoxLoss& loss, std::int64_t begin, std::int64_t end, const PerTile& per_tile) {
  const std::int64_t tiles = tiles_of_image(loss);
  for (std::int64_t tile = begin; tile < end; ++tile) {
    const std::int64_t image = tile / tiles, first = (tile - image * tiles) * kAnchorsOfTile;
    per_tile(image, tile, first, std::min<std::int64_t>(kAnchorsOfTile, loss.anchors - first));
  }
}

}  // namespace

BoxLossKind box_loss_kind_of(std::string_view name) {
  if (name == "smooth_l1") return BoxLossKind::smooth_l1;
  if (name == "giou") return BoxLossKind::giou;
  reject("kind is '", name.substr(0, 60), "'; expected smooth_l1 or giou");
}

template <typename T>
void box_loss_tiles_cpu(const Pyramid& pyramid, const BoxLoss& loss, const BoxLossTensors<T>& tensors,
                        const BoxBegins& begins, double* sums, std::int64_t begin, std::int64_t end) {
  for_tiles(loss, begin, end, [&](std::int64_t image, std::int64_t tile, std::int64_t first, std::int64_t count) {
    const std::int64_t* const matched = tensors.matched + image * loss.anchors + first;
    sums[tile] = 0;
    if (std::none_of(matched, matched + count, [](std::int64_t box) { return box >= 0; })) return;
    double losses[kAnchorsOfTile] = {};
    for (std::int64_t i = 0; i < count; ++i)
      if (matched[i] >= 0)
        losses[i] =
            box_loss_at(pyramid, loss, tensors, begins.begins[image], begins.begins[image + 1], image, first + i).loss;
    for (int half = kAnchorsOfTile / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) losses[i] += losses[i + half];
    sums[tile] = losses[0];
  });
}

template <typename T>
void box_loss_gradient_cpu(const Pyramid& pyramid, const BoxLoss& loss, const BoxLossTensors<T>& tensors,
                           const BoxBegins& begins, double grad, const double* weights, T* out, std::int64_t begin,
                           std::int64_t end) {
  for_tiles(loss, begin, end, [&](std::int64_t image, std::int64_t, std::int64_t first, std::int64_t count) {
    const double scale = grad * weights[image];
    T* const to = out + 4 * (image * loss.anchors + first);
    for (std::int64_t i = 0; i < count; ++i) {
      const LossOf made =
          box_loss_at(pyramid, loss, tensors, begins.begins[image], begins.begins[image + 1], image, first + i);
      for (int k = 0; k < 4; ++k) to[4 * i + k] = round_to<T>(made.by[k] == 0 ? 0 : made.by[k] * scale);
    }
  });
}

#define ANCHOR_EXT_BOX_LOSS(T)                                                                                    \
  template void box_loss_tiles_cpu(const Pyramid&, const BoxLoss&, const BoxLossTensors<T>&, const BoxBegins&,    \
                                   double*, std::int64_t, std::int64_t);                                          \
  template void box_loss_gradient_cpu(const Pyramid&, const BoxLoss&, const BoxLossTensors<T>&, const BoxBegins&, \
                                      double, const double*, T*, std::int64_t, std::int64_t);
ANCHOR_EXT_BOX_LOSS(float)
ANCHOR_EXT_BOX_LOSS(double)
ANCHOR_EXT_BOX_LOSS(Float16)
ANCHOR_EXT_BOX_LOSS(BFloat16)
#undef ANCHOR_EXT_BOX_LOSS

}  // namespace anchor_ext
