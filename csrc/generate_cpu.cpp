// The CPU's share of the work, one thread's at a time.
//
// x1 and x2 of an anchor do not depend on its row, nor y1 and y2 on its column. So the float64 arithmetic and the
// rounding are done once per column and once per row, into two small tables, and the anchors are those two
// interleaved: one pass of loads and stores at the speed of a fill, whatever the output type.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#include "generate.h"
#include "rounding.h"

// The compiler vectorises the pass for the machine it compiles for and for each of these, chosen at load time; a
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
constexpr std::int64_t kPassLength = 64;     // pairs that the innermost loop should have to get going
constexpr std::int64_t kMaxPass = std::max<std::int64_t>(2 * kPassLength, 2 * kMaxCellAnchors);
static_assert(kTableBytes >= 2 * kMaxCellAnchors * static_cast<std::int64_t>(sizeof(double)), "a cell must fit");

// out[2 * i] = xs[i], out[2 * i + 1] = ys[i % period] for i < pairs.
template <typename T>
inline __attribute__((always_inline)) void interleave_loop(T* __restrict out, const T* __restrict xs,
                                                           const T* __restrict ys, std::int64_t pairs,
                                                           std::int64_t period) {
  for (; pairs > 0; pairs -= period, out += 2 * period, xs += period) {
    const std::int64_t n = pairs < period ? pairs : period;
#pragma GCC unroll 4  // the loop is short and the processor waits for its branches, not for its memory
    for (std::int64_t i = 0; i < n; ++i) {
      out[2 * i] = xs[i];
      out[2 * i + 1] = ys[i];
    }
  }
}
ANCHOR_EXT_CLONES void interleave(double* __restrict out, const double* __restrict xs, const double* __restrict ys,
                                  std::int64_t pairs, std::int64_t period) {
  interleave_loop(out, xs, ys, pairs, period);
}
ANCHOR_EXT_CLONES void interleave(float* __restrict out, const float* __restrict xs, const float* __restrict ys,
                                  std::int64_t pairs, std::int64_t period) {
  interleave_loop(out, xs, ys, pairs, period);
}
ANCHOR_EXT_CLONES void interleave(std::uint16_t* __restrict out, const std::uint16_t* __restrict xs,
                                  const std::uint16_t* __restrict ys, std::int64_t pairs, std::int64_t period) {
  interleave_loop(out, xs, ys, pairs, period);
}

// The loop moves numbers, it does not compute with them: 16 bits are 16 bits.
template <typename T>
using Moved = std::conditional_t<sizeof(T) == 2, std::uint16_t, T>;

inline float bits(float value) { return value; }
inline double bits(double value) { return value; }
inline std::uint16_t bits(Float16 value) { return value.bits; }
inline std::uint16_t bits(BFloat16 value) { return value.bits; }

// Memory for the two tables: not on the stack, of which a thread may have been given little.
class Tables {
 public:
  Tables() : memory_(std::aligned_alloc(kLine, kTableBytes + kMaxPass * sizeof(double))) {
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

// Cells begin .. end-1 of a level, row after row; T is the output type, `out` [rows, columns, cell anchors, 4].
template <typename T>
void write_level(const Level& level, const Box* cell_anchors, Moved<T>* out, std::int64_t begin, std::int64_t end,
                 const Tables& tables) {
  auto* const xs = static_cast<Moved<T>*>(tables.x());  // [columns, cell anchors, 2]
  auto* const ys = static_cast<Moved<T>*>(tables.y());  // [repeats, cell anchors, 2]

  const std::int32_t num_cell_anchors = level.num_cell_anchors;
  const std::int64_t cell = 2 * num_cell_anchors;  // pairs in a cell
  const std::int64_t fit = kTableBytes / (cell * static_cast<std::int64_t>(sizeof(T)));
  const std::int64_t period = std::min((kPassLength + cell - 1) / cell, level.columns) * cell;  // a row's y, repeated
  const std::int64_t first_row = begin / level.columns, last_row = (end - 1) / level.columns;
  const bool one_row = first_row == last_row;
  const std::int64_t first_column = one_row ? begin - first_row * level.columns : 0;
  const std::int64_t end_column = one_row ? end - first_row * level.columns : level.columns;

  for (std::int64_t left = first_column; left < end_column; left += fit) {
    const std::int64_t right = std::min(left + fit, end_column);
    Moved<T>* x = xs;
    for (std::int64_t column = left; column < right; ++column)
      for (std::int32_t a = 0; a < num_cell_anchors; ++a, x += 2) {
        const Box box = shift(cell_anchors[a], centre(column, level.stride_x), 0);
        x[0] = bits(round_to<T>(box.x1));
        x[1] = bits(round_to<T>(box.x2));
      }
    for (std::int64_t row = first_row; row <= last_row; ++row) {
      const std::int64_t first = std::max(left, begin - row * level.columns);
      const std::int64_t last = std::min(right, end - row * level.columns);
      if (first >= last) continue;  // the range begins behind these columns, or ends before them
      Moved<T>* y = ys;
      for (std::int32_t a = 0; a < num_cell_anchors; ++a, y += 2) {
        const Box box = shift(cell_anchors[a], 0, centre(row, level.stride_y));
        y[0] = bits(round_to<T>(box.y1));
        y[1] = bits(round_to<T>(box.y2));
      }
      for (std::int64_t i = cell; i < period; i += cell)
        std::memcpy(ys + i, ys, static_cast<std::size_t>(cell) * sizeof(T));
      interleave(out + 2 * (row * level.columns + first) * cell, xs + (first - left) * cell, ys, (last - first) * cell,
                 period);
    }
  }
}

template <typename T>
void write_range(const Pyramid& pyramid, void* memory, std::int64_t flat, std::int64_t end) {
  auto* const out = static_cast<Moved<T>*>(memory);
  thread_local const Tables tables;  // once per thread: freshly mapped memory would cost more than the tables
  while (flat < end) {
    const Position at = locate(pyramid, flat);
    const Level& level = pyramid.levels[at.level];
    const std::int64_t cell = at.row * level.columns + at.column;
    const std::int64_t cells = std::min(level.rows * level.columns - cell, (end - flat) / level.num_cell_anchors);
    if (at.cell_anchor == 0 && cells > 0) {
      write_level<T>(level, pyramid.cell_anchors + level.first_cell_anchor, out + 4 * level.begin, cell, cell + cells,
                     tables);
      flat += cells * level.num_cell_anchors;
    } else {  // a cell that the range begins or ends in
      const Box box = anchor_at(pyramid, flat);
      const double components[4] = {box.x1, box.y1, box.x2, box.y2};
      for (int k = 0; k < 4; ++k) out[4 * flat + k] = bits(round_to<T>(components[k]));
      ++flat;
    }
  }
}

}  // namespace

void generate_cpu(const Pyramid& pyramid, Dtype dtype, void* out, std::int64_t begin, std::int64_t end) {
  switch (dtype) {
    case Dtype::float32:
      return write_range<float>(pyramid, out, begin, end);
    case Dtype::float64:
      return write_range<double>(pyramid, out, begin, end);
    case Dtype::float16:
      return write_range<Float16>(pyramid, out, begin, end);
    case Dtype::bfloat16:
      return write_range<BFloat16>(pyramid, out, begin, end);
  }
}

}  // namespace anchor_ext
