// The focal loss on the CPU under the sanitizers: random logits, matches and labels of all types, also of nothing.
#include <cstdio>
#include <random>
#include <vector>

#include "core/spec.h"
#include "loss/focal.h"

using namespace anchor_ext;

namespace {

std::mt19937_64 rng(1);
std::int64_t integer(std::int64_t a, std::int64_t b) {
  return a + static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(b - a + 1));
}

template <typename T>
void run() {
  Focal focal{integer(0, 400),
              integer(0, 95),
              static_cast<std::int32_t>(integer(1, 3)),
              0.25,
              integer(0, 1) ? 2.0 : 1.5,
              true,
              {}};
  focal.by_classes = divider_of(focal.classes);
  LabelBegins begins{};
  std::vector<std::int64_t> labels, matched;
  for (std::int32_t image = 0; image < focal.images; ++image) {
    const std::int64_t count = focal.classes > 0 ? integer(0, 3) : 0;
    for (std::int64_t i = 0; i < count; ++i) labels.push_back(integer(0, focal.classes - 1));
    begins.begins[image + 1] = static_cast<std::int32_t>(labels.size());
    for (std::int64_t i = 0; i < focal.anchors; ++i)
      matched.push_back(count > 0 && integer(0, 3) == 0 ? integer(0, count - 1) : integer(-3, -1));
  }
  std::vector<T> logits, gradient(static_cast<std::size_t>(focal.images * logits_of_image(focal)));
  for (std::size_t i = 0; i < gradient.size(); ++i)
    logits.push_back(round_to<T>(static_cast<double>(integer(-200, 200))));
  const std::int64_t tiles = tiles_of_image(focal) * focal.images;
  std::vector<double> sums(static_cast<std::size_t>(tiles)), weights(static_cast<std::size_t>(focal.images));
  const FocalTensors<T> tensors{logits.data(), matched.data(), labels.data()};
  Computed<T> loss = 0;
  focal_tiles_cpu(focal, tensors, begins, sums.data(), 0, tiles);
  focal_finish_cpu<T>(focal, matched.data(), sums.data(), {&loss, weights.data()});
  focal_gradient_cpu(focal, tensors, begins, &loss, weights.data(), gradient.data(), 0, tiles);
}

}  // namespace

int main() {
  for (int i = 0; i < 300; ++i) {
    run<float>();
    run<double>();
    run<Float16>();
    run<BFloat16>();
  }
  std::puts("all ran");
}
