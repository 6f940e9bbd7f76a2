// The CPU's share of the work, one thread's at a time.
//
// What moves with the column does not depend on the row, and the other way round. So the arithmetic and the roundings
// are done once per column and once per row, into two small tables, and what is written is those two combined: one
// pass of loads and stores at the speed of a fill, whatever the arithmetic and the output type.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#include "generate.h"

// The compiler vectorises the passes for the machine it compiles for and for each of these, chosen at load time; a
// machine without them takes the default.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(ANCHOR_EXT_NO_CLONES)
#define ANCHOR_EXT_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ANCHOR_EXT_CLONES
#endif

namespace anchor_ext {
namespace {

constexpr std::int64_t kTableBytes = 65536;  // holds a row of a 4K image: runs of stores stay long
constexpr std::int64_t kLine = 64;           // bytes: vectors that straddle two cache lines load at half speed
constexpr std::int64_t kPassBytes = 512;     // that the innermost loop should have to get going
constexpr std::int64_t kRows = 1024;         // computed at once where a row has but one number
static_assert(kTableBytes >= kMaxComponents * kMaxCellAnchors * static_cast<std::int64_t>(sizeof(double)),
              "a cell must fit");

// out[2 * i] = xs[i], out[2 * i + 1] = ys[i % period] for i < pairs; where `swapped`, the other way round.
template <bool swapped, typename T>
inline __attribute__((always_inline)) void interleave_loop(T* __restrict out, const T* __restrict xs,
                                                           const T* __restrict ys, std::int64_t pairs,
                                                           std::int64_t period) {
  if (period == 1) {  // one number for all
    const T y = *ys;
    for (std::int64_t i = 0; i < pairs; ++i) {
      out[2 * i] = swapped ? y : xs[i];
      out[2 * i + 1] = swapped ? xs[i] : y;
    }
    return;
  }
  for (; pairs > 0; pairs -= period, out += 2 * period, xs += period) {
    const std::int64_t n = pairs < period ? pairs : period;
#pragma GCC unroll 4  // the loop is short and the processor waits for its branches, not for its memory
    for (std::int64_t i = 0; i < n; ++i) {
      out[2 * i] = swapped ? ys[i] : xs[i];
      out[2 * i + 1] = swapped ? xs[i] : ys[i];
    }
  }
}

#define ANCHOR_EXT_INTERLEAVE(T) /* templates cannot be cloned */                                      \
  ANCHOR_EXT_CLONES void interleave(T* __restrict out, const T* __restrict xs, const T* __restrict ys, \
                                    std::int64_t pairs, std::int64_t period, bool swapped) {           \
    return swapped ? interleave_loop<true>(out, xs, ys, pairs, period)                                 \
                   : interleave_loop<false>(out, xs, ys, pairs, period);                               \
  }
ANCHOR_EXT_INTERLEAVE(double)
ANCHOR_EXT_INTERLEAVE(float)
ANCHOR_EXT_INTERLEAVE(std::uint16_t)

#define ANCHOR_EXT_REPEAT(T)                                                       \
  ANCHOR_EXT_CLONES void repeat(T* __restrict out, T number, std::int64_t count) { \
    for (std::int64_t i = 0; i < count; ++i) out[i] = number;                      \
  }
ANCHOR_EXT_REPEAT(double)
ANCHOR_EXT_REPEAT(float)
ANCHOR_EXT_REPEAT(std::uint16_t)

// out[i] = xs[i] & ys[i % period] for i < count; or |, where `either`.
template <bool either, typename T>
inline __attribute__((always_inline)) void combine_loop(T* __restrict out, const T* __restrict xs,
                                                        const T* __restrict ys, std::int64_t count,
                                                        std::int64_t period) {
  if (period == 1) {
    const T y = *ys;
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(either ? xs[i] | y : xs[i] & y);
    return;
  }
  for (; count > 0; count -= period, out += period, xs += period) {
    const std::int64_t n = count < period ? count : period;
    for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(either ? xs[i] | ys[i] : xs[i] & ys[i]);
  }
}

ANCHOR_EXT_CLONES void both(bool* __restrict out, const bool* __restrict xs, const bool* __restrict ys,
                            std::int64_t count, std::int64_t period) {
  combine_loop<false>(out, xs, ys, count, period);
}
#define ANCHOR_EXT_EITHER(T)                                                                                           \
  ANCHOR_EXT_CLONES void either(T* __restrict out, const T* __restrict xs, const T* __restrict ys, std::int64_t count, \
                                std::int64_t period) {                                                                 \
    combine_loop<true>(out, xs, ys, count, period);                                                                    \
  }
ANCHOR_EXT_EITHER(std::uint64_t)
ANCHOR_EXT_EITHER(std::uint32_t)
ANCHOR_EXT_EITHER(std::uint16_t)

// The passes move numbers, they do not compute with them: 16 bits are 16 bits.
template <typename T>
using Moved = std::conditional_t<sizeof(T) == 2, std::uint16_t, T>;

// The same number as an integer of its size.
template <typename T>
using Bits =
    std::conditional_t<sizeof(T) == 8, std::uint64_t, std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>>;

inline float bits(float value) { return value; }
inline double bits(double value) { return value; }
inline std::uint16_t bits(Float16 value) { return value.bits; }
inline std::uint16_t bits(BFloat16 value) { return value.bits; }

template <typename T>
constexpr Dtype kDtype = std::is_same_v<T, float>     ? Dtype::float32
                         : std::is_same_v<T, double>  ? Dtype::float64
                         : std::is_same_v<T, Float16> ? Dtype::float16
                                                      : Dtype::bfloat16;

// Memory for the two tables: not on the stack, of which a thread may have been given little.
class Tables {
 public:
  Tables() : memory_(std::aligned_alloc(kLine, 2 * kTableBytes)) {
    if (memory_ == nullptr) throw std::bad_alloc();
  }
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;
  ~Tables() { std::free(memory_); }

  void* x() const { return memory_; }
  void* y() const { return static_cast<unsigned char*>(memory_) + kTableBytes; }

 private:
  void* memory_;
};

// Once per thread: freshly mapped memory would cost more than what is put there.
const Tables& tables() {
  thread_local const Tables tables;
  return tables;
}

// Of a cell.
struct Centre {
  double x, y;
};

Centre centre_of(const Pyramid& pyramid, const Position& at) {
  const Level& level = pyramid.levels[at.level];
  return {centre<false>(pyramid.arithmetic, level.x, at.column), centre<false>(pyramid.arithmetic, level.y, at.row)};
}

// The centres of all columns and of all rows of a pyramid, which are few beside its cells.
class Centres {
 public:
  static bool fit(const Pyramid& pyramid, std::int64_t most) {
    std::int64_t columns = 0, rows = 0;
    for (std::int32_t l = 0; l < pyramid.num_levels; ++l) {
      columns += pyramid.levels[l].x.cells;
      rows += pyramid.levels[l].y.cells;
    }
    return columns + rows <= most && std::max(columns, rows) * static_cast<std::int64_t>(sizeof(double)) <= kTableBytes;
  }

  Centres(const Pyramid& pyramid, const Tables& tables)
      : x_(static_cast<double*>(tables.x())), y_(static_cast<double*>(tables.y())) {
    double *x = x_, *y = y_;
    for (std::int32_t l = 0; l < pyramid.num_levels; ++l) {
      const Level& level = pyramid.levels[l];
      for (std::int64_t cell = 0; cell < level.x.cells; ++cell) *x++ = centre<false>(pyramid.arithmetic, level.x, cell);
      for (std::int64_t cell = 0; cell < level.y.cells; ++cell) *y++ = centre<false>(pyramid.arithmetic, level.y, cell);
    }
  }

  // Columns and rows counted over all levels.
  Centre at(std::int32_t column, std::int32_t row) const { return {x_[column], y_[row]}; }

 private:
  double *x_, *y_;
};

// Whether the sum of cell anchor and centre is rounded but once. (A sum of two 16-bit numbers may as well be: float32,
// which torch computes it in, has the bits to spare that make the second rounding innocuous.)
template <typename T>
bool is_rounded_once(const Pyramid& pyramid) {
  const Arithmetic& arithmetic = pyramid.arithmetic;
  const bool narrow = arithmetic.sum == kDtype<T> && (sizeof(T) > 2 || arithmetic.centre == arithmetic.sum);
  return !pyramid.scaled && !pyramid.clipped && (arithmetic.sum == Dtype::float64 || narrow);
}

// Flat indices, and where they lie: columns, rows and cell anchors, each counted over all levels.
struct alignas(kLine) Block {
  static constexpr std::int64_t kSize = 256;
  static constexpr std::int64_t kMaxAnchors = 1 << 30;  // of a pyramid: sums of two numbers stay within 32 bits
  std::int32_t flat[kSize], column[kSize], row[kSize], cell_anchor[kSize];
  std::int64_t lowest, highest;  // of the flat indices
};

template <typename Index>
inline __attribute__((always_inline)) void read_loop(const Index* indices, std::int64_t count, Block& block) {
  Index lowest = indices[0], highest = indices[0];
  for (std::int64_t i = 0; i < count; ++i) {
    const Index index = indices[i];
    lowest = index < lowest ? index : lowest;
    highest = index > highest ? index : highest;
    block.flat[i] = static_cast<std::int32_t>(index);
  }
  block.lowest = lowest;
  block.highest = highest;
}

ANCHOR_EXT_CLONES void read_block(const Indices& indices, std::int64_t first, std::int64_t count, Block& block) {
  if (indices.bytes == 8) return read_loop(static_cast<const std::int64_t*>(indices.memory) + first, count, block);
  read_loop(static_cast<const std::int32_t*>(indices.memory) + first, count, block);
}

// As locate(), without a step that a vector cannot make, for a pyramid of up to 2**30 anchors. Every index is
// divided as if it were of every level that occurs, and the last one that does not begin behind it is right.
//
// (n + 0.5) / d is at least 0.5 / d away from the next integer, and for n < 2**31 the two roundings of its product with
// a rounded 1 / d cannot bridge that.
ANCHOR_EXT_CLONES void locate_block(const Pyramid& pyramid, Block& block, std::int64_t count) {
  std::int32_t first_column = 0, first_row = 0;
  for (const Level* level = pyramid.levels; level < pyramid.levels + pyramid.num_levels; ++level) {
    const auto begin = static_cast<std::int32_t>(level->begin), columns = static_cast<std::int32_t>(level->x.cells);
    const auto rows = static_cast<std::int32_t>(level->y.cells);
    const std::int32_t cell_anchors = level->num_cell_anchors, first_cell_anchor = level->first_cell_anchor;
    const double by_cell_anchors = 1.0 / cell_anchors, by_columns = 1.0 / columns;
    const std::int32_t x = first_column, y = first_row;
    first_column += columns;
    first_row += rows;
    if (begin > block.highest || begin + std::int64_t{rows} * columns * cell_anchors <= block.lowest) continue;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t within = block.flat[i] - begin;
      const auto cell = static_cast<std::int32_t>((within + 0.5) * by_cell_anchors);
      const auto row = static_cast<std::int32_t>((cell + 0.5) * by_columns);
      const std::int32_t before = within >> 31;  // all ones where the index lies before this level
      const auto keep = [before](std::int32_t& value, std::int32_t found) {
        value = (value & before) | (found & ~before);  // a condition would become a branch
      };
      keep(block.column[i], x + cell - row * columns);
      keep(block.row[i], y + row);
      keep(block.cell_anchor[i], first_cell_anchor + within - cell * cell_anchors);
    }
  }
}

// The three kinds of content that write_range() writes. Each has `of_x` numbers per anchor in the columns' table,
// `of_y` in the rows' and `of_out` in the output, fills one cell of either table, combines a run of anchors of one row,
// and writes a single one.

// Anchors whose components are pairs: one moves with the column and one with the row, or neither moves.
template <typename T>
struct Paired {
  using Number = Moved<T>;
  const Pyramid& pyramid;
  const int of_out = pyramid.layout.components;  // or 2: the first pair only
  const int of_x = of_out / 2, of_y = of_out / 2;
  const bool swapped = pyramid.layout.along_y & 1;  // y comes first
  const int moving = pyramid.layout.along_x | pyramid.layout.along_y;
  const bool once = is_rounded_once<T>(pyramid);

  // The components first, first + 2, ... of the anchors of cells begin .. end-1 along one axis.
  void halves(const Level& level, int first, const Side& side, std::int64_t begin, std::int64_t end, Number* to) const {
    const int components = pyramid.layout.components;
    const int apart = of_out == 2 ? components : 2;
    const double* const cell_anchors = cell_anchor_at(pyramid, level, 0);
    const double* const behind = cell_anchor_at(pyramid, level, level.num_cell_anchors);
    for (std::int64_t cell = begin; cell < end; ++cell) {
      const double centre = anchor_ext::centre<false>(pyramid.arithmetic, side, cell);
      if (once && moving == (1 << of_out) - 1) {
        for (const double* number = cell_anchors + first; number < behind; number += apart)
          *to++ = bits(round_to<T>(*number + centre));
        continue;
      }
      for (const double* cell_anchor = cell_anchors; cell_anchor < behind; cell_anchor += components)
        for (int k = first; k < of_out; k += 2)
          *to++ = once ? bits(round_to<T>(cell_anchor[k] + (moving >> k & 1 ? centre : 0.0)))
                       : bits(round_to<T>(component<false>(pyramid, cell_anchor[k], k, centre, centre)));
    }
  }
  void columns(const Level& level, std::int64_t begin, std::int64_t end, Number* to) const {
    halves(level, swapped ? 1 : 0, level.x, begin, end, to);
  }
  void rows(const Level& level, std::int64_t begin, std::int64_t end, Number* to) const {
    halves(level, swapped ? 0 : 1, level.y, begin, end, to);
  }
  void combine(Number* out, const Number* xs, const Number* ys, std::int64_t anchors, std::int64_t period) const {
    interleave(out, xs, ys, anchors * of_x, period * of_y, swapped);
  }
  inline __attribute__((always_inline)) void at(const double* cell_anchor, Centre centre, Number* out) const {
    if (once && moving == (1 << of_out) - 1) {
      const double first = swapped ? centre.y : centre.x, second = swapped ? centre.x : centre.y;
      out[0] = bits(round_to<T>(cell_anchor[0] + first));
      out[1] = bits(round_to<T>(cell_anchor[1] + second));
      if (of_out == 2) return;
      out[2] = bits(round_to<T>(cell_anchor[2] + first));
      out[3] = bits(round_to<T>(cell_anchor[3] + second));
      return;
    }
    for (int k = 0; k < of_out; ++k)
      out[k] = bits(round_to<T>(component<false>(pyramid, cell_anchor[k], k, centre.x, centre.y)));
  }
  void one(std::int64_t flat, Number* out) const {
    const Position position = locate(pyramid, flat);
    const Level& level = pyramid.levels[position.level];
    at(cell_anchor_at(pyramid, level, position.cell_anchor), centre_of(pyramid, position), out);
  }
};

// Boxes with an angle, as integers: whole ones in either table, with zeros for what the other has.
template <typename T>
struct Turned {
  using Number = Bits<T>;
  const Pyramid& pyramid;
  const int of_out = 5, of_x = 5, of_y = 5;
  const bool once = is_rounded_once<T>(pyramid);

  template <bool of_row>
  void boxes(const Level& level, const Side& side, std::int64_t begin, std::int64_t end, Number* to) const {
    constexpr int moving = of_row ? kCxcywha.along_y : kCxcywha.along_x;
    for (std::int64_t cell = begin; cell < end; ++cell) {
      const double centre = anchor_ext::centre<false>(pyramid.arithmetic, side, cell);
      const double* cell_anchor = cell_anchor_at(pyramid, level, 0);
      for (std::int32_t a = 0; a < level.num_cell_anchors; ++a, cell_anchor += kCxcywha.components)
        for (int k = 0; k < kCxcywha.components; ++k, ++to) {
          *to = 0;
          if ((kCxcywha.along_y >> k & 1) != of_row) continue;
          const T value = round_to<T>(once ? cell_anchor[k] + (moving >> k & 1 ? centre : 0.0)
                                           : component<false>(pyramid, cell_anchor[k], k, centre, centre));
          std::memcpy(to, &value, sizeof value);
        }
    }
  }
  void columns(const Level& level, std::int64_t begin, std::int64_t end, Number* to) const {
    boxes<false>(level, level.x, begin, end, to);
  }
  void rows(const Level& level, std::int64_t begin, std::int64_t end, Number* to) const {
    boxes<true>(level, level.y, begin, end, to);
  }
  void combine(Number* out, const Number* xs, const Number* ys, std::int64_t anchors, std::int64_t period) const {
    either(out, xs, ys, anchors * of_out, period * of_out);
  }
  inline __attribute__((always_inline)) void at(const double* cell_anchor, Centre centre, Number* out) const {
    for (int k = 0; k < of_out; ++k) {
      const T value = round_to<T>(component<false>(pyramid, cell_anchor[k], k, centre.x, centre.y));
      std::memcpy(out + k, &value, sizeof value);
    }
  }
  void one(std::int64_t flat, Number* out) const {
    const Position position = locate(pyramid, flat);
    const Level& level = pyramid.levels[position.level];
    at(cell_anchor_at(pyramid, level, position.cell_anchor), centre_of(pyramid, position), out);
  }
};

struct Flags {
  using Number = bool;
  const Pyramid& pyramid;
  const Question& question;
  const int of_out = 1, of_x = 1, of_y = 1;

  void answers(const Level& level, std::uint8_t axis, std::int64_t valid, const Side& side, std::int64_t begin,
               std::int64_t end, bool* to) const {
    for (std::int64_t cell = begin; cell < end; ++cell, to += level.num_cell_anchors) {
      std::fill_n(to, level.num_cell_anchors, cell < valid);
      if (!question.of_components || cell >= valid) continue;
      const double at = centre<false>(pyramid.arithmetic, side, cell);
      for (std::int32_t a = 0; a < level.num_cell_anchors; ++a)
        to[a] = is_within(pyramid, question, cell_anchor_at(pyramid, level, a), axis, at);
    }
  }
  void columns(const Level& level, std::int64_t begin, std::int64_t end, bool* to) const {
    const std::int64_t valid = question.valid[&level - pyramid.levels].columns;
    answers(level, pyramid.layout.along_x, valid, level.x, begin, end, to);
  }
  void rows(const Level& level, std::int64_t begin, std::int64_t end, bool* to) const {
    const std::int64_t valid = question.valid[&level - pyramid.levels].rows;
    answers(level, pyramid.layout.along_y, valid, level.y, begin, end, to);
  }
  void combine(bool* out, const bool* xs, const bool* ys, std::int64_t anchors, std::int64_t period) const {
    both(out, xs, ys, anchors, period);
  }
  void one(std::int64_t flat, bool* out) const { *out = flag_at(pyramid, question, flat); }
};

// Cells begin .. end-1 of a level, row after row; `out` is where the level's first anchor lies.
template <typename Content>
void write_level(const Content& content, const Level& level, typename Content::Number* out, std::int64_t begin,
                 std::int64_t end, const Tables& tables) {
  using Number = typename Content::Number;
  auto* const xs = static_cast<Number*>(tables.x());  // [columns, cell anchors, of_x]
  auto* const ys = static_cast<Number*>(tables.y());  // [repeats, cell anchors, of_y], or [rows]

  const std::int64_t columns = level.x.cells, cell = level.num_cell_anchors;
  const std::int64_t x_cell = cell * content.of_x, y_cell = cell * content.of_y;
  const std::int64_t fit = kTableBytes / (x_cell * static_cast<std::int64_t>(sizeof(Number)));
  const std::int64_t pass = kPassBytes / static_cast<std::int64_t>(sizeof(Number));
  const std::int64_t repeats = y_cell == 1 ? 1 : std::min((pass + y_cell - 1) / y_cell, columns);
  const std::int64_t rows = y_cell == 1 ? kRows : 1;
  const std::int64_t first_row = begin / columns, last_row = (end - 1) / columns;
  const bool one_row = first_row == last_row;
  const std::int64_t first_column = one_row ? begin - first_row * columns : 0;
  const std::int64_t end_column = one_row ? end - first_row * columns : columns;

  for (std::int64_t left = first_column; left < end_column; left += fit) {
    const std::int64_t right = std::min(left + fit, end_column);
    content.columns(level, left, right, xs);
    std::int64_t computed = first_row;  // the rows before this one
    Number* of_row = ys;
    for (std::int64_t row = first_row; row <= last_row; ++row, of_row += y_cell) {
      if (row == computed) {
        of_row = ys;
        computed = std::min(row + rows, last_row + 1);
        content.rows(level, row, computed, ys);
      }
      const std::int64_t first = std::max(left, begin - row * columns);
      const std::int64_t last = std::min(right, end - row * columns);
      if (first >= last) continue;  // the range begins behind these columns, or ends before them
      for (std::int64_t done = 1; done < repeats; done *= 2) {
        const std::int64_t more = std::min(done, repeats - done);
        std::memcpy(of_row + done * y_cell, of_row, static_cast<std::size_t>(more * y_cell) * sizeof(Number));
      }
      content.combine(out + (row * columns + first) * cell * content.of_out, xs + (first - left) * x_cell, of_row,
                      (last - first) * cell, repeats * cell);
    }
  }
}

template <typename Content>
void write_range(const Content& content, void* memory, std::int64_t flat, std::int64_t end) {
  const Pyramid& pyramid = content.pyramid;
  auto* const out = static_cast<typename Content::Number*>(memory);
  while (flat < end) {
    const Position at = locate(pyramid, flat);
    const Level& level = pyramid.levels[at.level];
    const std::int64_t cell = at.row * level.x.cells + at.column;
    const std::int64_t cells = std::min(level.y.cells * level.x.cells - cell, (end - flat) / level.num_cell_anchors);
    if (at.cell_anchor == 0 && cells > 0) {
      write_level(content, level, out + content.of_out * level.begin, cell, cell + cells, tables());
      flat += cells * level.num_cell_anchors;
    } else {  // a cell that the range begins or ends in
      content.one(flat, out + content.of_out * flat);
      ++flat;
    }
  }
}

// Calls `function` with a null pointer of the type.
template <typename Function>
void with_type(Dtype dtype, const Function& function) {
  switch (dtype) {
    case Dtype::float32:
      return function(static_cast<float*>(nullptr));
    case Dtype::float64:
      return function(static_cast<double*>(nullptr));
    case Dtype::float16:
      return function(static_cast<Float16*>(nullptr));
    case Dtype::bfloat16:
      return function(static_cast<BFloat16*>(nullptr));
  }
}

}  // namespace

void generate_cpu(const Pyramid& pyramid, Dtype dtype, void* out, std::int64_t begin, std::int64_t end) {
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (pyramid.layout.components % 2 == 0)
      write_range(Paired<T>{pyramid}, out, begin, end);
    else
      write_range(Turned<T>{pyramid}, out, begin, end);
  });
}

void points_cpu(const Pyramid& pyramid, Dtype dtype, void* points, void* strides, std::int64_t begin,
                std::int64_t end) {
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    write_range(Paired<T>{pyramid, 2}, points, begin, end);
    for (std::int32_t l = 0; l < pyramid.num_levels; ++l) {
      const Level& level = pyramid.levels[l];
      const std::int64_t first = std::max(begin, level.begin);
      const std::int64_t last = std::min(end, level.begin + level.y.cells * level.x.cells);
      const double stride = component<false>(pyramid, cell_anchor_at(pyramid, level, 0)[2], 2, 0, 0);
      repeat(static_cast<Moved<T>*>(strides) + first, bits(round_to<T>(stride)), last - first);
    }
  });
}

void gather_cpu(const Pyramid& pyramid, const Indices& indices, Dtype dtype, void* out, std::int64_t begin,
                std::int64_t end) {
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto write = [&](const auto& content) {
      auto* const anchors = static_cast<typename std::decay_t<decltype(content)>::Number*>(out);
      if (pyramid.num_anchors > Block::kMaxAnchors || !Centres::fit(pyramid, end - begin)) {
        for (std::int64_t i = begin; i < end; ++i)
          content.one(wrapped(pyramid, index_at(indices, i)), anchors + content.of_out * i);
        return;
      }
      const Centres centres(pyramid, tables());
      Block block{};
      for (std::int64_t first = begin; first < end; first += Block::kSize) {
        const std::int64_t count = std::min(Block::kSize, end - first);
        read_block(indices, first, count, block);
        if (block.lowest < 0 || block.highest >= pyramid.num_anchors) {
          for (std::int64_t i = 0; i < count; ++i)
            block.flat[i] = static_cast<std::int32_t>(wrapped(pyramid, index_at(indices, first + i)));
          block.lowest = 0;
          block.highest = pyramid.num_anchors - 1;
        }
        locate_block(pyramid, block, count);
        for (std::int64_t i = 0; i < count; ++i) {
          const double* const cell_anchor = pyramid.cell_anchors + block.cell_anchor[i] * pyramid.layout.components;
          content.at(cell_anchor, centres.at(block.column[i], block.row[i]), anchors + content.of_out * (first + i));
        }
      }
    };
    if (pyramid.layout.components % 2 == 0)
      write(Paired<T>{pyramid});
    else
      write(Turned<T>{pyramid});
  });
}

void flags_cpu(const Pyramid& pyramid, const Question& question, bool* out, std::int64_t begin, std::int64_t end) {
  write_range(Flags{pyramid, question}, out, begin, end);
}

}  // namespace anchor_ext
