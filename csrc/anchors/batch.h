// Many images at once: plain data and host/device functions, as in pyramid.h.
#pragma once

#include <cstdint>

#include "core/pyramid.h"

namespace anchor_ext {

inline constexpr int kMaxImages = 512;  // of one launch, so that they reach the device with it: see kMaxLevels

// The images' anchors, one image after another. Grids are derived from the images on the device: they would take twenty
// times as many bytes.
struct Batch {
  std::int64_t num_anchors;
  std::int32_t num_images;
  std::int32_t pyramid_levels[kMaxLevels];
  struct {
    std::int64_t begin;  // of the image's anchors among all
    std::int32_t height, width;
  } images[kMaxImages];
};
static_assert(sizeof(Pyramid) + sizeof(Batch) + 128 <= 32764, "both must fit a kernel's parameters");

// Where a flat index over all images lies, in a pyramid whose grids are not its own but the image's.
ANCHOR_EXT_HD Position locate(const Grids& pyramid, const Batch& batch, std::int64_t flat_index) {
  std::int32_t image = 0;
  for (std::int32_t end = batch.num_images; end - image > 1;) {
    const std::int32_t middle = image + (end - image) / 2;
    (flat_index >= batch.images[middle].begin ? image : end) = middle;
  }
  std::int64_t within = flat_index - batch.images[image].begin;
  for (std::int32_t l = 0;; ++l) {
    const std::int32_t shift = batch.pyramid_levels[l];
    const std::int64_t below = (std::int64_t{1} << shift) - 1;
    const std::int64_t rows = (batch.images[image].height + below) >> shift;
    const std::int64_t columns = (batch.images[image].width + below) >> shift;
    const Level& level = pyramid.levels[l];
    const std::int64_t size = rows * columns * level.num_cell_anchors;
    if (within >= size && l + 1 < pyramid.num_levels) {
      within -= size;
      continue;
    }
    const std::int64_t cell = divide(within, level.by_cell_anchors);
    const std::int64_t row = cell >> 32 == 0  // of 32 bits is cheaper on a device
                                 ? static_cast<std::uint32_t>(cell) / static_cast<std::uint32_t>(columns)
                                 : cell / columns;
    return {l, static_cast<std::int32_t>(within - cell * level.num_cell_anchors), row, cell - row * columns};
  }
}

}  // namespace anchor_ext
