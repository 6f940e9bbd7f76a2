#include <algorithm>

#include "loss/sums.h"

namespace anchor_ext {

template <typename C>
void finish_cpu(const Summation& summation, const std::int64_t* matched, const double* sums,
                const LossResult<C>& result) {
  double loss = 0;
  for (std::int32_t image = 0; image < summation.images; ++image) {
    double lanes[kLanes] = {};
    for (std::int64_t tile = 0; tile < summation.tiles; ++tile)
      lanes[tile % kLanes] += sums[image * summation.tiles + tile];
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    const std::int64_t* const own = matched + image * summation.anchors;
    const auto positives = std::count_if(own, own + summation.anchors, [](std::int64_t index) { return index >= 0; });
    result.weights[image] = weight_of(summation, positives);
    loss += lanes[0] * result.weights[image];
  }
  *result.loss = static_cast<C>(loss);
}

template void finish_cpu(const Summation&, const std::int64_t*, const double*, const LossResult<float>&);
template void finish_cpu(const Summation&, const std::int64_t*, const double*, const LossResult<double>&);

}  // namespace anchor_ext
