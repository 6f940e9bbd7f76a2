// The whole of anchor_ext's arithmetic: an anchor is a pure function of (pyramid, flat index).
//
// Plain data and host/device functions only: no torch, no CUDA calls, no exceptions. The CUDA kernel calls anchor_at();
// the CPU loop calls it where a share of its work begins and ends, and in between the functions that it is made of.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define ANCHOR_EXT_HD __host__ __device__ __forceinline__
#else
#define ANCHOR_EXT_HD inline
#endif

#define ANCHOR_EXT_API __attribute__((visibility("default")))  // what libanchor_ext.so offers to its Python module

namespace anchor_ext {

// Together they keep sizeof(Pyramid) under the 32,764 bytes that a kernel's parameters may hold (sm_70 on,
// CUDA 12.1 on), so that a pyramid reaches the device with the launch itself: no copy, no allocation.
inline constexpr int kMaxLevels = 16;
inline constexpr int kMaxCellAnchors = 512;  // over all levels

// Sizes in bytes stay within int64 for the widest output type: 2**58 anchors * 4 components * 8 bytes < 2**63.
inline constexpr std::int64_t kMaxAnchors = (std::int64_t{1} << 58) - 1;
inline constexpr std::int64_t kMaxSide = (std::int64_t{1} << 31) - 1;  // of an image or of a level's grid

// x1, y1, x2, y2 in pixels of the input image.
struct Box {
  double x1, y1, x2, y2;
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

struct Level {
  std::int64_t begin;  // flat index of the level's first anchor
  std::int64_t rows, columns;
  double stride_y, stride_x;
  Divider by_columns, by_cell_anchors;
  std::int32_t num_cell_anchors;
  std::int32_t first_cell_anchor;  // in Pyramid::cell_anchors
};

struct Pyramid {
  std::int64_t num_anchors;
  std::int32_t num_levels;
  Level levels[kMaxLevels];
  Box cell_anchors[kMaxCellAnchors];  // around the origin, level after level
};
static_assert(sizeof(Pyramid) + 64 <= 32764, "a pyramid must fit a kernel's parameters");

// Where a flat index lies. Order: level, row, column, cell anchor.
struct Position {
  std::int32_t level;
  std::int32_t cell_anchor;
  std::int64_t row, column;
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

ANCHOR_EXT_HD double centre(std::int64_t cell, double stride) {
  // Grids have at most 2**31 - 1 cells a side: a 32-bit conversion is exact, and cheaper on a device.
  return multiply_rounded(static_cast<double>(static_cast<std::int32_t>(cell)) + 0.5, stride);
}

ANCHOR_EXT_HD Box shift(const Box& cell_anchor, double x, double y) {
  return {cell_anchor.x1 + x, cell_anchor.y1 + y, cell_anchor.x2 + x, cell_anchor.y2 + y};
}

ANCHOR_EXT_HD Position locate(const Pyramid& pyramid, std::int64_t flat_index) {
  std::int32_t l = 0;
  while (l + 1 < pyramid.num_levels && flat_index >= pyramid.levels[l + 1].begin) ++l;
  const Level& level = pyramid.levels[l];
  const std::int64_t within = flat_index - level.begin;
  const std::int64_t cell = divide(within, level.by_cell_anchors);
  const std::int64_t row = divide(cell, level.by_columns);
  return {l, static_cast<std::int32_t>(within - cell * level.num_cell_anchors), row, cell - row * level.columns};
}

// The one function: flat index -> level -> cell -> cell anchor -> box, in float64. Whoever stores it rounds once.
ANCHOR_EXT_HD Box anchor_at(const Pyramid& pyramid, std::int64_t flat_index) {
  const Position at = locate(pyramid, flat_index);
  const Level& level = pyramid.levels[at.level];
  return shift(pyramid.cell_anchors[level.first_cell_anchor + at.cell_anchor], centre(at.column, level.stride_x),
               centre(at.row, level.stride_y));
}

}  // namespace anchor_ext
