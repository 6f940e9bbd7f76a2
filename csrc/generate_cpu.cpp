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
static_assert(kTableBytes >= kMaxComponents * kMaxCellAnchors * static_cast<std::int64_t>(sizeof(double)),
              "a cell must fit");

// out[2 * i] = xs[i], out[2 * i + 1] = ys[i % period] for i < pairs; where `swapped`, the other way round.
template <bool swapped, typename T>
inline __attribute__((always_inline)) void interleave_loop(T* __restrict out, const T* __restrict xs,
                                                           const T* __restrict ys, std::int64_t pairs,
                                                           std::int64_t period) {
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

// out[i] = xs[i] & ys[i % period] for i < count; or |, where `either`.
template <bool either, typename T>
inline __attribute__((always_inline)) void combine_loop(T* __restrict out, const T* __restrict xs,
                                                        const T* __restrict ys, std::int64_t count,
                                                        std::int64_t period) {
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

template <typename T>
void write_anchor(const Anchor& anchor, int components, Moved<T>* out) {
  for (int k = 0; k < components; ++k) out[k] = bits(round_to<T>(anchor.components[k]));
}

// Whether the sum of cell anchor and centre is rounded but once. (A sum of two 16-bit numbers may as well be: float32,
// which torch computes it in, has the bits to spare that make the second rounding innocuous.)
template <typename T>
bool is_rounded_once(const Pyramid& pyramid) {
  const Arithmetic& arithmetic = pyramid.arithmetic;
  const bool narrow = arithmetic.sum == kDtype<T> && (sizeof(T) > 2 || arithmetic.centre == arithmetic.sum);
  return !pyramid.scaled && !pyramid.clipped && (arithmetic.sum == Dtype::float64 || narrow);
}

// The three kinds of content that write_range() writes. Each has `of_x` numbers per anchor in the columns' table,
// `of_y` in the rows' and `of_out` in the output, fills one cell of either table, combines a run of anchors of one row,
// and writes a single one.

// Anchors whose components are pairs: one moves with the column and one with the row, or neither moves.
template <typename T>
struct Paired {
  using Number = Moved<T>;
  const Pyramid& pyramid;
  const int of_out = pyramid.layout.components, of_x = of_out / 2, of_y = of_out / 2;
  const bool swapped = pyramid.layout.along_y & 1;  // y comes first
  const int moving = pyramid.layout.along_x | pyramid.layout.along_y;
  const bool once = is_rounded_once<T>(pyramid);

  // The components first, first + 2, ... of a cell's anchors.
  void halves(const Level& level, int first, double centre, Number* to) const {
    const double* const begin = cell_anchor_at(pyramid, level, 0);
    const double* const end = cell_anchor_at(pyramid, level, level.num_cell_anchors);
    if (once && moving == (1 << of_out) - 1) {
      for (const double* number = begin + first; number < end; number += 2) *to++ = bits(round_to<T>(*number + centre));
      return;
    }
    for (const double* cell_anchor = begin; cell_anchor < end; cell_anchor += of_out)
      for (int k = first; k < of_out; k += 2)
        *to++ = once ? bits(round_to<T>(cell_anchor[k] + (moving >> k & 1 ? centre : 0.0)))
                     : bits(round_to<T>(component<false>(pyramid, cell_anchor[k], k, centre, centre)));
  }
  void column(const Level& level, std::int64_t column, Number* to) const {
    halves(level, swapped ? 1 : 0, centre<false>(pyramid.arithmetic, level.x, column), to);
  }
  void row(const Level& level, std::int64_t row, Number* to) const {
    halves(level, swapped ? 0 : 1, centre<false>(pyramid.arithmetic, level.y, row), to);
  }
  void combine(Number* out, const Number* xs, const Number* ys, std::int64_t anchors, std::int64_t period) const {
    interleave(out, xs, ys, anchors * of_x, period * of_y, swapped);
  }
  void one(std::int64_t flat, Number* out) const {
    if (!once) return write_anchor<T>(anchor_at<false>(pyramid, flat), of_out, out);
    const Position at = locate(pyramid, flat);
    const Level& level = pyramid.levels[at.level];
    const double* const cell_anchor = cell_anchor_at(pyramid, level, at.cell_anchor);
    const double x = centre<false>(pyramid.arithmetic, level.x, at.column);
    const double y = centre<false>(pyramid.arithmetic, level.y, at.row);
    for (int k = 0; k < of_out; k += 2) {
      const bool moves = moving >> k & 1;  // both of a pair do, or neither
      out[k] = bits(round_to<T>(cell_anchor[k] + (!moves ? 0.0 : swapped ? y : x)));
      out[k + 1] = bits(round_to<T>(cell_anchor[k + 1] + (!moves ? 0.0 : swapped ? x : y)));
    }
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
  void boxes(const Level& level, double centre, Number* to) const {
    constexpr int moving = of_row ? kCxcywha.along_y : kCxcywha.along_x;
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
  void column(const Level& level, std::int64_t column, Number* to) const {
    boxes<false>(level, centre<false>(pyramid.arithmetic, level.x, column), to);
  }
  void row(const Level& level, std::int64_t row, Number* to) const {
    boxes<true>(level, centre<false>(pyramid.arithmetic, level.y, row), to);
  }
  void combine(Number* out, const Number* xs, const Number* ys, std::int64_t anchors, std::int64_t period) const {
    either(out, xs, ys, anchors * of_out, period * of_out);
  }
  void one(std::int64_t flat, Number* out) const {
    const Anchor anchor = anchor_at<false>(pyramid, flat);
    for (int k = 0; k < of_out; ++k) {
      const T value = round_to<T>(anchor.components[k]);
      std::memcpy(out + k, &value, sizeof value);
    }
  }
};

struct Flags {
  using Number = bool;
  const Pyramid& pyramid;
  const Question& question;
  const int of_out = 1, of_x = 1, of_y = 1;

  void answers(const Level& level, std::uint8_t axis, bool valid, const Side& side, std::int64_t cell, bool* to) const {
    std::fill_n(to, level.num_cell_anchors, valid);
    if (!question.of_components || !valid) return;
    const double at = centre<false>(pyramid.arithmetic, side, cell);
    for (std::int32_t a = 0; a < level.num_cell_anchors; ++a)
      to[a] = is_within(pyramid, question, cell_anchor_at(pyramid, level, a), axis, at);
  }
  void column(const Level& level, std::int64_t column, bool* to) const {
    const bool valid = column < question.valid[&level - pyramid.levels].columns;
    answers(level, pyramid.layout.along_x, valid, level.x, column, to);
  }
  void row(const Level& level, std::int64_t row, bool* to) const {
    const bool valid = row < question.valid[&level - pyramid.levels].rows;
    answers(level, pyramid.layout.along_y, valid, level.y, row, to);
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
  auto* const ys = static_cast<Number*>(tables.y());  // [repeats, cell anchors, of_y]

  const std::int64_t columns = level.x.cells, cell = level.num_cell_anchors;
  const std::int64_t x_cell = cell * content.of_x, y_cell = cell * content.of_y;
  const std::int64_t fit = kTableBytes / (x_cell * static_cast<std::int64_t>(sizeof(Number)));
  const std::int64_t pass = kPassBytes / static_cast<std::int64_t>(sizeof(Number));
  const std::int64_t repeats = std::min((pass + y_cell - 1) / y_cell, columns);
  const std::int64_t first_row = begin / columns, last_row = (end - 1) / columns;
  const bool one_row = first_row == last_row;
  const std::int64_t first_column = one_row ? begin - first_row * columns : 0;
  const std::int64_t end_column = one_row ? end - first_row * columns : columns;

  for (std::int64_t left = first_column; left < end_column; left += fit) {
    const std::int64_t right = std::min(left + fit, end_column);
    for (std::int64_t column = left; column < right; ++column)
      content.column(level, column, xs + (column - left) * x_cell);
    for (std::int64_t row = first_row; row <= last_row; ++row) {
      const std::int64_t first = std::max(left, begin - row * columns);
      const std::int64_t last = std::min(right, end - row * columns);
      if (first >= last) continue;  // the range begins behind these columns, or ends before them
      content.row(level, row, ys);
      if (y_cell == 1) std::fill_n(ys + 1, repeats - 1, *ys);
      for (std::int64_t done = y_cell == 1 ? repeats : 1; done < repeats; done *= 2) {
        const std::int64_t more = std::min(done, repeats - done);
        std::memcpy(ys + done * y_cell, ys, static_cast<std::size_t>(more * y_cell) * sizeof(Number));
      }
      content.combine(out + (row * columns + first) * cell * content.of_out, xs + (first - left) * x_cell, ys,
                      (last - first) * cell, repeats * cell);
    }
  }
}

template <typename Content>
void write_range(const Content& content, void* memory, std::int64_t flat, std::int64_t end) {
  const Pyramid& pyramid = content.pyramid;
  auto* const out = static_cast<typename Content::Number*>(memory);
  thread_local const Tables tables;  // once per thread: freshly mapped memory would cost more than the tables
  while (flat < end) {
    const Position at = locate(pyramid, flat);
    const Level& level = pyramid.levels[at.level];
    const std::int64_t cell = at.row * level.x.cells + at.column;
    const std::int64_t cells = std::min(level.y.cells * level.x.cells - cell, (end - flat) / level.num_cell_anchors);
    if (at.cell_anchor == 0 && cells > 0) {
      write_level(content, level, out + content.of_out * level.begin, cell, cell + cells, tables);
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

void gather_cpu(const Pyramid& pyramid, const Indices& indices, Dtype dtype, void* out, std::int64_t begin,
                std::int64_t end) {
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto write = [&](const auto& content) {
      auto* const anchors = static_cast<typename std::decay_t<decltype(content)>::Number*>(out);
      for (std::int64_t i = begin; i < end; ++i)
        content.one(wrapped(pyramid, index_at(indices, i)), anchors + content.of_out * i);
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
