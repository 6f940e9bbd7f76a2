// From the sums of tiles to a loss: the same on a device as on the CPU, and by any number of threads.
#pragma once

#include <cstdint>

#include "core/pyramid.h"

namespace anchor_ext {

inline constexpr int kLanes = 32;            // the sums of an image's tiles are added in so many, and these by pairs
inline constexpr int kMaxLossImages = 2048;  // of one call: where their boxes begin goes along with a launch
inline constexpr std::int64_t kIgnoredAnchor = -2;  // takes no part

// Where each image's boxes begin among all; and where the last ones end.
struct BoxBegins {
  std::int32_t begins[kMaxLossImages + 1];
};

struct Summation {
  std::int64_t tiles, anchors;  // of an image
  std::int32_t images;
  bool normalize;  // each image's sum by its positives, at least 1; and the mean of the images
};

// Of an image with so many positives: what its sum is multiplied by.
ANCHOR_EXT_HD double weight_of(const Summation& summation, std::int64_t positives) {
  if (!summation.normalize) return 1;
  return 1.0 / static_cast<double>(positives > 1 ? positives : 1) / static_cast<double>(summation.images);
}

// The loss, and [images] what each image's sum was multiplied by.
template <typename C>
struct LossResult {
  C* loss;
  double* weights;
};

// `sums` [images, tiles]; `matched` [images, anchors], of which those from 0 on are positives. On CUDA by one launch,
// with how many of them lie in each tile.
template <typename C>
void finish_cpu(const Summation& summation, const std::int64_t* matched, const double* sums,
                const LossResult<C>& result);
template <typename C>
void finish_cuda(const Summation& summation, const double* sums, const std::int32_t* positives,
                 const LossResult<C>& result, int device, void* stream);

}  // namespace anchor_ext
