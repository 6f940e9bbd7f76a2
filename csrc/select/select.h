// Which of many logits are above a bound, on the CPU; and the greatest of them, on CUDA.
#pragma once

#include <cstdint>
#include <vector>

#include "core/pyramid.h"

namespace anchor_ext {

// A number's bits as an integer that orders as the numbers do, and back. NaN is above infinity, or below everything if
// its sign bit is set.
template <typename Bits>
ANCHOR_EXT_HD Bits order_of(Bits bits) {
  constexpr Bits kMagnitude = static_cast<Bits>(~(Bits{1} << (8 * sizeof(Bits) - 1)));
  return static_cast<Bits>(bits ^ ((bits >> (8 * sizeof(Bits) - 1)) & kMagnitude));
}

// One pass over the logits' bits, in vectors. Adds the indices in begin .. end-1 of the numbers whose order is above
// `bound`, in ascending order.
void add_above(const std::int16_t* bits, std::int64_t begin, std::int64_t end, std::int16_t bound,
               std::vector<std::int64_t>& to);
void add_above(const std::int32_t* bits, std::int64_t begin, std::int64_t end, std::int32_t bound,
               std::vector<std::int64_t>& to);
void add_above(const std::int64_t* bits, std::int64_t begin, std::int64_t end, std::int64_t bound,
               std::vector<std::int64_t>& to);

inline constexpr int kMostKept = 4096;                                     // of a level, on CUDA
inline constexpr std::int64_t kMostOfLevel = (std::int64_t{1} << 32) - 1;  // logits of a level, likewise

// The same level of every image.
struct SelectLevel {
  const void* memory;                       // of the first image's logits
  std::int64_t stride;                      // from one image's logits to the next one's
  std::int64_t count, cells, cell_anchors;  // logits; cells of a head's output, 0 where the classes lie side by side
  std::int64_t begin, tile, slot;           // its first anchor, its first tile, and its first place among the results
  std::int32_t kept;                        // places

  // A logit's index as anchors and classes are flattened.
  ANCHOR_EXT_HD std::int64_t flattened(std::int64_t at, std::int64_t classes) const {
    if (cells == 0) return at;
    const std::int64_t channel = at / cells, a = channel / classes;
    return ((at - channel * cells) * cell_anchors + a) * classes + channel - a * classes;
  }
};

inline constexpr std::int64_t kSelectTile = 8192;  // logits of a block

struct Selecting {
  SelectLevel levels[kMaxLevels];
  std::int32_t num_levels, images;
  std::int64_t classes, slots, tiles;
  std::int32_t above, most;  // only logits whose order is above the one and not above the other take part

  std::int64_t parts() const { return std::int64_t{images} * num_levels; }
};

// What a kernel knows of a level of an image.
struct SelectState {
  std::uint64_t floor;  // keys from here on are gathered
  std::int32_t remaining, done, found;
};

inline constexpr int kBins = 2048;

// Memory of the device: of each part (a level of an image) a state, kBins counts and kMostKept keys.
struct SelectMemory {
  SelectState* states;
  std::uint32_t* bins;
  std::uint64_t* keys;

  static constexpr std::int64_t kZeroed = sizeof(SelectState) + kBins * sizeof(std::uint32_t);  // bytes of a part
  static constexpr std::int64_t kBytes = kZeroed + kMostKept * sizeof(std::uint64_t);
  SelectMemory(void* memory, std::int64_t parts)
      : states(static_cast<SelectState*>(memory)),
        bins(reinterpret_cast<std::uint32_t*>(states + parts)),
        keys(reinterpret_cast<std::uint64_t*>(bins + parts * kBins)) {}
};

// [images, slots] each: a part's places hold its greatest logits, the greatest first, those that are equal in the order
// of their indices; and where they are. Bits is int32_t, or int16_t for logits of 16 bits.
template <typename Bits>
struct Greatest {
  Bits* logits;
  std::int64_t *index, *labels;
};
template <typename Bits>
void greatest_cuda(const Selecting& selecting, void* memory, const Greatest<Bits>& result, int device, void* stream);

// What `select` gives: of what was found those whose score is above the threshold, without gaps.
template <typename T>
struct Selected {
  T* scores;
  std::int64_t *index, *labels, *counts;
};
template <typename T>
void pack_cuda(const Selecting& selecting, const void* memory, const T* scores, const std::int64_t* index,
               const std::int64_t* labels, double threshold, const Selected<T>& result, int device, void* stream);

}  // namespace anchor_ext
