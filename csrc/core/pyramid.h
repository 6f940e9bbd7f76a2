// Where anchors lie: an anchor is a pure function of (pyramid, flat index).
//
// Plain data and host/device functions only: no torch, no CUDA calls, no exceptions. Code that needs one anchor calls
// anchor_at(). Code that needs many (a CUDA block its tile, a CPU loop its range) calls centre() and component(), which
// anchor_at() is made of, once per row and once per column instead of once per anchor.
#pragma once

#include <cstdint>

#include "core/rounding.h"

#define ANCHOR_EXT_API __attribute__((visibility("default")))  // what libanchor_ext.so offers to its Python module

namespace anchor_ext {

// Together they keep sizeof(Pyramid) under the 32,764 bytes that a kernel's parameters may hold (sm_70 on,
// CUDA 12.1 on), so that a pyramid reaches the device with the launch itself: no copy, no allocation.
inline constexpr int kMaxLevels = 16;
inline constexpr int kMaxCellAnchors = 512;  // over all levels
inline constexpr int kMaxComponents = 5;     // of an anchor

// Sizes in bytes stay within int64 for the widest output type: 2**58 anchors * 4 components * 8 bytes = 2**63.
inline constexpr std::int64_t kMaxNumbers = (std::int64_t{1} << 60) - 1;  // N * components
inline constexpr std::int64_t kMaxAnchors = (std::int64_t{1} << 58) - 1;
inline constexpr std::int64_t kMaxSide = (std::int64_t{1} << 31) - 1;  // of an image or of a level's grid

// What an anchor's components are, as bits: component k is bit k.
struct Layout {
  std::int32_t components;
  std::uint8_t along_x, along_y;  // move with the column, with the row; the others are the cell anchor's own
  std::uint8_t low, high;         // bounds of the anchor: inside an image are those with low >= 0 and high < its side
};
inline constexpr Layout kXyxy{4, 0b0101, 0b1010, 0b0011, 0b1100};         // x1, y1, x2, y2
inline constexpr Layout kYxyx{4, 0b1010, 0b0101, 0b0011, 0b1100};         // y1, x1, y2, x2
inline constexpr Layout kCxcywha{5, 0b00001, 0b00010, 0b00011, 0b00011};  // centre x, y, width, height, angle
inline constexpr Layout kPoint{2, 0b01, 0b10, 0b11, 0b11};                // x, y
inline constexpr Layout kPointStride{4, 0b0001, 0b0010, 0b0011, 0b0011};  // x, y, stride x, y

// How the centre of a cell comes about, along one axis.
enum class Grid : std::int32_t {
  product,   // (cell + offset) * stride + start, each result rounded to `position`
  quotient,  // (cell + offset) / stride in float32; the box is multiplied by the image's sides afterwards
  arange,    // torch.arange(start, ..., stride) in float32, as torch's CPU kernel rounds it
};

struct Arithmetic {
  Grid grid;
  Dtype position;  // of the grid's operations
  Dtype centre;    // that the position is rounded to then
  Dtype sum;       // of cell anchor + centre, and of what follows
};

// Division by a number that is known on the host only: one multiplication and one shift.
//
// With 2**(s-1) < d <= 2**s and m = ceil(2**(63+s) / d), which fits 64 bits, n*m / 2**(63+s) exceeds n/d by
// less than n / 2**(63+s) < 1/d for every 0 <= n < 2**63: not enough to reach the next integer. (Granlund and
// Montgomery, "Division by invariant integers using multiplication", PLDI 1994, theorem 4.2.)
struct Divider {
  std::uint64_t multiplier;
  std::uint32_t shift;
};

// The rows or the columns of a level's grid.
struct Side {
  std::int64_t cells;
  double offset;  // of the first centre: in cells, added before the product
  double stride;
  double start;  // in pixels, added after it
};

struct Level {
  std::int64_t begin;  // flat index of the level's first anchor
  Side y, x;
  Divider by_columns, by_cell_anchors;
  std::int32_t num_cell_anchors;
  std::int32_t first_cell_anchor;  // in Pyramid::cell_anchors
};

// A pyramid without its cell anchors' numbers.
struct Grids {
  std::int64_t num_anchors;
  std::int32_t num_levels;
  Layout layout;
  Arithmetic arithmetic;
  bool plain;               // float64, x1 y1 x2 y2, start 0, neither scaled nor clipped: nothing but the common case
  bool scaled, clipped;     // multiplied by the image's sides; limited to 0 .. limit
  double image_y, image_x;  // where scaled
  double limit_y, limit_x;  // where clipped
  Level levels[kMaxLevels];
};

template <int kNumbers>
struct PyramidOf : Grids {
  double cell_anchors[kNumbers];  // around the origin, level after level, component by component
};
using Pyramid = PyramidOf<kMaxCellAnchors * kMaxComponents>;
static_assert(sizeof(Pyramid) + 128 <= 32764, "a pyramid must fit a kernel's parameters");

// Where a flat index lies. Order: level, row, column, cell anchor.
struct Position {
  std::int32_t level;
  std::int32_t cell_anchor;
  std::int64_t row, column;
};

struct Anchor {
  double components[kMaxComponents];  // those that the layout has; the others are 0
};

ANCHOR_EXT_HD std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(a, b);
#else
  __extension__ using uint128 = unsigned __int128;
  return static_cast<std::uint64_t>((static_cast<uint128>(a) * b) >> 64);
#endif
}

ANCHOR_EXT_HD std::int64_t divide(std::int64_t numerator, Divider divider) {
  const std::uint64_t doubled = static_cast<std::uint64_t>(numerator) << 1;
  return static_cast<std::int64_t>(multiply_high(doubled, divider.multiplier) >> divider.shift);
}

// A product that no compiler may contract with the addition that follows: the last bit would change.
// Host compilers promise it by -ffp-contract=off.
ANCHOR_EXT_HD double multiply_rounded(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

ANCHOR_EXT_HD float multiply_rounded(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

ANCHOR_EXT_HD float divide_rounded(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

// torch.arange in float32 on the CPU: blocks of eight, whose first number is rounded before the others are counted
// from it, two blocks at a time; what is left over is computed number by number. (ATen/native/cpu/RangeFactoriesKernel,
// the same for AVX-512, AVX2 and neither; rows of over 32,768 cells it shares out among threads, which is not
// followed.)
ANCHOR_EXT_HD double arange(const Side& side, std::int64_t cell) {
  if (cell >= side.cells / 16 * 16)
    return narrowed(side.start + multiply_rounded(side.stride, static_cast<double>(cell)));
  const std::int64_t block = cell / 8 * 8;
  const float first = narrowed(side.start + multiply_rounded(side.stride, static_cast<double>(block)));
  return narrowed(first + multiply_rounded(static_cast<double>(cell - block), side.stride));
}

// The centre of a cell along one axis. `kPlain` is the pyramid's `plain`, where the compiler should know it.
template <bool kPlain>
ANCHOR_EXT_HD double centre(const Arithmetic& arithmetic, const Side& side, std::int64_t cell) {
  // Grids have at most 2**31 - 1 cells a side: a 32-bit conversion is exact, and cheaper on a device.
  const auto whole = static_cast<std::int32_t>(cell);
  const auto number = static_cast<double>(whole);
  if (kPlain) return multiply_rounded(number + side.offset, side.stride);
  const Dtype dtype = arithmetic.position;
  double position;
  if (arithmetic.grid == Grid::product && dtype == Dtype::float32) {
    const auto offset = static_cast<float>(side.offset), stride = static_cast<float>(side.stride);
    position = multiply_rounded(static_cast<float>(whole) + offset, stride) + static_cast<float>(side.start);
    if (arithmetic.centre == Dtype::float32) return position;
  } else if (arithmetic.grid == Grid::product) {
    position = rounded(rounded(number, dtype) + side.offset, dtype);
    position = rounded(rounded(multiply_rounded(position, side.stride), dtype) + side.start, dtype);
  } else if (arithmetic.grid == Grid::quotient) {
    const float shifted = narrowed(narrowed(number) + side.offset);
    position = divide_rounded(shifted, narrowed(side.stride));
  } else {
    position = arange(side, cell);
  }
  return rounded(position, arithmetic.centre);
}

// Component k of a cell anchor in the cell with this centre.
template <bool kPlain>
ANCHOR_EXT_HD double component(const Grids& pyramid, double of_cell_anchor, int k, double x, double y) {
  if (kPlain) return of_cell_anchor + (k % 2 == 0 ? x : y);
  const bool along_x = pyramid.layout.along_x >> k & 1, along_y = pyramid.layout.along_y >> k & 1;
  const Dtype dtype = pyramid.arithmetic.sum;
  double value = rounded(of_cell_anchor + (along_x ? x : along_y ? y : 0.0), dtype);
  if (along_x || along_y) {
    if (pyramid.scaled) value = rounded(multiply_rounded(value, along_x ? pyramid.image_x : pyramid.image_y), dtype);
    const double limit = along_x ? pyramid.limit_x : pyramid.limit_y;
    if (pyramid.clipped) value = value < 0 ? 0.0 : value > limit ? limit : value;
  }
  return value;
}

ANCHOR_EXT_HD Position locate(const Grids& pyramid, std::int64_t flat_index) {
  std::int32_t l = 0;
#if defined(__CUDA_ARCH__)  // most threads end at the first level, and their neighbours with them
  while (l + 1 < pyramid.num_levels && flat_index >= pyramid.levels[l + 1].begin) ++l;
#else  // no branch that depends on the index, which a processor would have to guess
  for (std::int32_t next = 1; next < pyramid.num_levels; ++next) l += flat_index >= pyramid.levels[next].begin;
#endif
  const Level& level = pyramid.levels[l];
  const std::int64_t within = flat_index - level.begin;
  const std::int64_t cell = divide(within, level.by_cell_anchors);
  const std::int64_t row = divide(cell, level.by_columns);
  return {l, static_cast<std::int32_t>(within - cell * level.num_cell_anchors), row, cell - row * level.x.cells};
}

// The components of a level's cell anchor.
template <int kNumbers>
ANCHOR_EXT_HD const double* cell_anchor_at(const PyramidOf<kNumbers>& pyramid, const Level& level,
                                           std::int32_t cell_anchor) {
  return pyramid.cell_anchors + (level.first_cell_anchor + cell_anchor) * pyramid.layout.components;
}

// Flat indices, in integers of 4 or 8 bytes.
struct Indices {
  const void* memory;
  std::int32_t bytes;
};

ANCHOR_EXT_HD std::int64_t index_at(const Indices& indices, std::int64_t i) {
  return indices.bytes == 8 ? static_cast<const std::int64_t*>(indices.memory)[i]
                            : static_cast<const std::int32_t*>(indices.memory)[i];
}

// A flat index as Python counts, from the end where it is negative; beyond the last anchor it begins anew.
ANCHOR_EXT_HD std::int64_t wrapped(const Grids& pyramid, std::int64_t index) {
  if (index >= 0 && index < pyramid.num_anchors) return index;
  const std::int64_t remainder = index % pyramid.num_anchors;
  return remainder < 0 ? remainder + pyramid.num_anchors : remainder;
}

// The one function: level, cell and cell anchor -> anchor. Whoever stores it rounds once more.
template <bool kPlain, int kNumbers>
ANCHOR_EXT_HD Anchor anchor_at(const PyramidOf<kNumbers>& pyramid, const Position& at) {
  const Level& level = pyramid.levels[at.level];
  const double x = centre<kPlain>(pyramid.arithmetic, level.x, at.column);
  const double y = centre<kPlain>(pyramid.arithmetic, level.y, at.row);
  const int components = kPlain ? 4 : pyramid.layout.components;
  const double* const cell_anchor = pyramid.cell_anchors + (level.first_cell_anchor + at.cell_anchor) * components;
  Anchor anchor;
#if defined(__CUDACC__)
#pragma unroll  // components in registers: an index that is known at run time only would put them in memory
#endif
  for (int k = 0; k < kMaxComponents; ++k)
    anchor.components[k] = k < components ? component<kPlain>(pyramid, cell_anchor[k], k, x, y) : 0.0;
  return anchor;
}

template <bool kPlain, int kNumbers>
ANCHOR_EXT_HD Anchor anchor_at(const PyramidOf<kNumbers>& pyramid, std::int64_t flat_index) {
  return anchor_at<kPlain>(pyramid, locate(pyramid, flat_index));
}

}  // namespace anchor_ext
