// The CPU kernels; each call runs on the calling thread.
//
// A component moves with the column, with the row or with neither. So there are two small tables, each of whole cells
// as they will be written: of columns, with zero bits for the components that move with the row; and of rows, with
// zero bits for all others. What is written is one table's bits OR the other's, which serves every layout, arithmetic
// and output type alike: the pass moves bytes, not numbers. Flags are the same with AND.
//
// That pass should cost what a fill costs. So it reads little: two rows are written at once, and the columns' table is
// read once for both. It is taken in tiles that stay in the L1 cache; each tile serves all rows. And a row's cell is
// repeated to at least kPassBytes, so that the innermost loop is long.
#include <algorithm>
#include <cstring>
#include <memory>

#include "anchors/anchors.h"
#include "core/clones.h"

namespace anchor_ext {
namespace {

constexpr std::int64_t kVector = 32;        // bytes: the widest that most machines have
constexpr std::int64_t kTileBytes = 24576;  // of the columns' table: an L1 cache has 32 KB or more
constexpr std::int64_t kPassBytes = 256;    // of a row's cells, at least
constexpr std::int64_t kMostNumbers = kMaxCellAnchors * kMaxComponents;  // of a cell
constexpr std::int64_t kMostBytes = std::max(kMostNumbers * static_cast<std::int64_t>(sizeof(double)), kTileBytes);
static_assert(kMostBytes >= kTileBytes && kTileBytes >= kPassBytes + kVector, "every table has kMostBytes");

// Once per thread, and not on the stack, of which a thread may have been given little.
struct Scratch {
  alignas(kVector) unsigned char columns[kMostBytes], rows[kMostBytes], row[2][kMostBytes];
  double numbers[kMostNumbers], centres[kMostNumbers], values[kMostNumbers];
  std::int64_t moving[kMostNumbers];
};

Scratch& scratch() {
  thread_local const std::unique_ptr<Scratch> scratch(new Scratch);
  return *scratch;
}

template <typename T>
ANCHOR_EXT_INLINE void round_all(const double* __restrict values, std::int64_t count, void* out) {
  T* __restrict const to = static_cast<T*>(out);
  for (std::int64_t i = 0; i < count; ++i) to[i] = round_to<T>(values[i]);
}

ANCHOR_EXT_CLONES void round_values(const double* values, std::int64_t count, Dtype dtype, void* out) {
  if (dtype == Dtype::float32) return round_all<float>(values, count, out);
  if (dtype == Dtype::float64) return round_all<double>(values, count, out);
  if (dtype == Dtype::float16) return round_all<Float16>(values, count, out);
  round_all<BFloat16>(values, count, out);
}

struct Sums {
  const double* numbers;       // of a cell
  const std::int64_t* moving;  // all ones where a number moves, else 0
  std::int64_t count;
  const double* centres;
  std::int64_t cells;
};

template <typename T>
ANCHOR_EXT_INLINE void add_all(const Sums& sums, T* __restrict out) {
  const double* __restrict const numbers = sums.numbers;
  const std::int64_t* __restrict const moving = sums.moving;
  for (std::int64_t cell = 0; cell < sums.cells; ++cell, out += sums.count) {
    const std::int64_t centre = bits_of(sums.centres[cell]);
    for (std::int64_t j = 0; j < sums.count; ++j) out[j] = round_to<T>(numbers[j] + double_of(centre & moving[j]));
  }
}

ANCHOR_EXT_CLONES void add_centres(const Sums& sums, float* out) { add_all(sums, out); }
ANCHOR_EXT_CLONES void add_centres(const Sums& sums, double* out) { add_all(sums, out); }

// Of memory, at any address.
using Word __attribute__((aligned(1), may_alias)) = std::uint64_t;

ANCHOR_EXT_INLINE Word& word(unsigned char* memory, std::uint64_t i) { return reinterpret_cast<Word*>(memory)[i]; }
ANCHOR_EXT_INLINE Word word(const unsigned char* memory, std::uint64_t i) {
  return reinterpret_cast<const Word*>(memory)[i];
}

// Of cells begin .. begin+cells-1.
void centres(const Pyramid& pyramid, const Side& side, std::int64_t begin, std::int64_t cells, double* to) {
  if (pyramid.plain)
    for (std::int64_t i = 0; i < cells; ++i) to[i] = centre<true>(pyramid.arithmetic, side, begin + i);
  else
    for (std::int64_t i = 0; i < cells; ++i) to[i] = centre<false>(pyramid.arithmetic, side, begin + i);
}

// The bytes of one row, or of two that share xs: out[i] = xs[i] and/or ys[i % period] for i < bytes. The period is a
// whole number of vectors. Where there are more bytes than that, ys is readable for one vector beyond it.
struct Run {
  const unsigned char* xs;
  const unsigned char* ys[2];
  unsigned char* out[2];
  std::int64_t bytes, period;
};

template <bool kBoth>
ANCHOR_EXT_INLINE void combine_vectors(unsigned char* __restrict out, const unsigned char* __restrict xs,
                                       const unsigned char* __restrict ys, std::int64_t bytes) {
  const std::uint64_t words = static_cast<std::uint64_t>(bytes) / kVector * (kVector / sizeof(Word));
  for (std::uint64_t i = 0; i < words; ++i)
    word(out, i) = kBoth ? word(xs, i) & word(ys, i) : word(xs, i) | word(ys, i);
}

template <bool kBoth>
ANCHOR_EXT_INLINE void combine_two(unsigned char* __restrict out, unsigned char* __restrict next_out,
                                   const unsigned char* __restrict xs, const unsigned char* __restrict ys,
                                   const unsigned char* __restrict next_ys, std::int64_t bytes) {
  const std::uint64_t words = static_cast<std::uint64_t>(bytes) / kVector * (kVector / sizeof(Word));
  for (std::uint64_t i = 0; i < words; ++i) {
    const std::uint64_t x = word(xs, i);
    word(out, i) = kBoth ? x & word(ys, i) : x | word(ys, i);
    word(next_out, i) = kBoth ? x & word(next_ys, i) : x | word(next_ys, i);
  }
}

template <bool kBoth>
ANCHOR_EXT_INLINE void combine(const Run run) {
  if (run.bytes < kVector) {
    for (int r = 0; r < 2 && run.out[r] != nullptr; ++r)
      for (std::int64_t i = 0; i < run.bytes; ++i)
        run.out[r][i] = static_cast<unsigned char>(kBoth ? run.xs[i] & run.ys[r][i] : run.xs[i] | run.ys[r][i]);
    return;
  }
  const auto some = [run](std::int64_t at, std::int64_t of_row, std::int64_t bytes) __attribute__((always_inline)) {
    if (run.out[1] == nullptr)
      combine_vectors<kBoth>(run.out[0] + at, run.xs + at, run.ys[0] + of_row, bytes);
    else
      combine_two<kBoth>(run.out[0] + at, run.out[1] + at, run.xs + at, run.ys[0] + of_row, run.ys[1] + of_row, bytes);
  };
  for (std::int64_t i = 0; i < run.bytes; i += run.period) some(i, 0, std::min(run.period, run.bytes - i));
  const std::int64_t last = run.bytes - kVector;  // overlaps another one
  some(last, static_cast<std::uint32_t>(last) % static_cast<std::uint32_t>(run.period), kVector);
}

ANCHOR_EXT_CLONES void either(const Run& run) { combine<false>(run); }
ANCHOR_EXT_CLONES void both(const Run& run) { combine<true>(run); }

// write_range() writes anchors or flags. Either type has the `bytes` of an anchor, table() of the cells begin .. end-1
// along one axis, combine() of two tables, and one() for a single anchor.

struct Anchors {
  const Pyramid& pyramid;
  const Dtype dtype;
  const std::int64_t bytes = pyramid.layout.components * bytes_of(dtype);
  Scratch& memory = scratch();

  // Whether an anchor is but a sum, rounded once. (A sum of two 16-bit numbers may as well be: float32, which torch
  // computes it in, has the bits to spare that make the second rounding innocuous.)
  bool is_sum() const {
    const Arithmetic& arithmetic = pyramid.arithmetic;
    if (pyramid.scaled || pyramid.clipped) return false;
    if (arithmetic.sum == Dtype::float64) return true;
    return arithmetic.sum == dtype && (dtype == Dtype::float32 || arithmetic.centre == dtype);
  }

  void table(const Level& level, bool of_rows, std::int64_t begin, std::int64_t end, unsigned char* out) const {
    const Side& side = of_rows ? level.y : level.x;
    const Layout& layout = pyramid.layout;
    const int held = of_rows ? layout.along_y : ~layout.along_y, moving = of_rows ? layout.along_y : layout.along_x;
    const double* const cell_anchors = cell_anchor_at(pyramid, level, 0);
    const std::int64_t count = std::int64_t{level.num_cell_anchors} * layout.components;
    const bool sum = is_sum();
    if (sum)
      for (std::int64_t j = 0; j < count;)
        for (int k = 0; k < layout.components; ++k, ++j) {
          memory.numbers[j] = held >> k & 1 ? cell_anchors[j] : 0.0;
          memory.moving[j] = moving >> k & 1 ? -1 : 0;
        }
    for (const std::int64_t most = kMostNumbers / count; begin < end; begin += most) {
      const std::int64_t cells = std::min(most, end - begin);
      centres(pyramid, side, begin, cells, memory.centres);
      const Sums sums{memory.numbers, memory.moving, count, memory.centres, cells};
      if (sum && dtype == Dtype::float32) {
        add_centres(sums, reinterpret_cast<float*>(out));
      } else {
        if (sum)
          add_centres(sums, memory.values);
        else
          components(cell_anchors, count, held, cells);
        round_values(memory.values, cells * count, dtype, out);
      }
      out += cells * level.num_cell_anchors * bytes;
    }
  }
  void components(const double* cell_anchors, std::int64_t count, int held, std::int64_t cells) const {
    double* value = memory.values;
    for (std::int64_t cell = 0; cell < cells; ++cell) {
      const double centre = memory.centres[cell];
      for (const double* number = cell_anchors; number < cell_anchors + count;)
        for (int k = 0; k < pyramid.layout.components; ++k, ++number)
          *value++ = held >> k & 1 ? component<false>(pyramid, *number, k, centre, centre) : 0.0;
    }
  }
  static void combine(const Run& run) { either(run); }
  void one(std::int64_t flat, unsigned char* out) const {
    round_values(anchor_at<false>(pyramid, flat).components, pyramid.layout.components, dtype, out);
  }
};

struct Flags {
  const Pyramid& pyramid;
  const AnchorPredicate& predicate;
  const std::int64_t bytes = sizeof(bool);
  Scratch& memory = scratch();

  void table(const Level& level, bool of_rows, std::int64_t begin, std::int64_t end, unsigned char* out) const {
    const auto& valid = predicate.valid[&level - pyramid.levels];
    const std::int64_t valid_end = of_rows ? valid.rows : valid.columns;
    const std::uint8_t axis = of_rows ? pyramid.layout.along_y : pyramid.layout.along_x;
    for (std::int64_t cell = begin; cell < end; ++cell, out += level.num_cell_anchors) {
      if (!predicate.of_components || cell >= valid_end) {
        std::fill_n(out, level.num_cell_anchors, cell < valid_end);
        continue;
      }
      const double at = centre<false>(pyramid.arithmetic, of_rows ? level.y : level.x, cell);
      for (std::int32_t a = 0; a < level.num_cell_anchors; ++a)
        out[a] = is_within(pyramid, predicate, cell_anchor_at(pyramid, level, a), axis, at);
    }
  }
  static void combine(const Run& run) { both(run); }
  void one(std::int64_t flat, unsigned char* out) const { *out = flag_at(pyramid, predicate, flat); }
};

// out[i] = cell[i % bytes] for i < length, which is no less than bytes.
void repeat(const unsigned char* cell, std::int64_t bytes, std::int64_t length, unsigned char* out) {
  std::memcpy(out, cell, static_cast<std::size_t>(bytes));
  for (std::int64_t done = bytes; done < length; done *= 2)
    std::memcpy(out + done, out, static_cast<std::size_t>(std::min(done, length - done)));
}

// Cells begin .. end-1 of a level, row after row; `out` is where the level's first anchor lies.
template <typename Content>
void write_cells(const Content& content, const Level& level, std::int64_t begin, std::int64_t end, unsigned char* out) {
  Scratch& memory = content.memory;
  const std::int64_t columns = level.x.cells, cell = level.num_cell_anchors * content.bytes;
  const std::int64_t vectors = cell * (kVector / std::min(cell & -cell, kVector));  // the least number of both
  const std::int64_t period = vectors * ((kPassBytes + vectors - 1) / vectors);
  const std::int64_t most = std::max(kTileBytes / cell, std::int64_t{1});

  const std::int64_t first_row = divide(begin, level.by_columns), last_row = divide(end - 1, level.by_columns);
  const std::int64_t first_column = begin - first_row * columns, end_column = end - last_row * columns;
  const bool one_row = first_row == last_row;
  const std::int64_t leftmost = one_row ? first_column : 0, rightmost = one_row ? end_column : columns;
  for (std::int64_t left = leftmost; left < rightmost; left += most) {
    const std::int64_t right = std::min(left + most, rightmost);
    content.table(level, false, left, right, memory.columns);
    for (std::int64_t row = first_row, together; row <= last_row; row += together) {
      const std::int64_t of_table = (row - first_row) % most;
      if (of_table == 0) content.table(level, true, row, std::min(row + most, last_row + 1), memory.rows);
      const std::int64_t from = row == first_row ? std::max(left, first_column) : left;
      const std::int64_t to = row == last_row ? std::min(right, end_column) : right;
      const bool next_is_alike = from == left && (row + 1 < last_row || (row + 1 == last_row && right <= end_column));
      together = next_is_alike && of_table + 1 < most ? 2 : 1;
      if (from >= to) continue;  // the range begins behind these columns, or ends before them
      unsigned char* const first = out + (row * columns + from) * cell;
      const Run run{memory.columns + (from - left) * cell,
                    {memory.row[0], memory.row[1]},
                    {first, together == 2 ? first + columns * cell : nullptr},
                    (to - from) * cell,
                    period};
      for (std::int64_t r = 0; r < together; ++r)
        repeat(memory.rows + (of_table + r) * cell, cell, std::min(period + kVector, run.bytes), memory.row[r]);
      content.combine(run);
    }
  }
}

template <typename Content>
void write_range(const Content& content, void* memory, std::int64_t begin, std::int64_t end) {
  const Pyramid& pyramid = content.pyramid;
  auto* const out = static_cast<unsigned char*>(memory);
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l) {
    const Level& level = pyramid.levels[l];
    const std::int64_t cell_anchors = level.num_cell_anchors;
    const std::int64_t first = std::max(begin, level.begin);
    const std::int64_t last = std::min(end, level.begin + level.y.cells * level.x.cells * cell_anchors);
    if (first >= last) continue;
    const std::int64_t first_cell = divide(first - level.begin + cell_anchors - 1, level.by_cell_anchors);
    const std::int64_t last_cell = std::max(divide(last - level.begin, level.by_cell_anchors), first_cell);
    const auto singly = [&](std::int64_t flat, std::int64_t stop) {  // of a cell that the range begins or ends in
      for (; flat < stop; ++flat) content.one(flat, out + flat * content.bytes);
    };
    singly(first, std::min(level.begin + first_cell * cell_anchors, last));
    if (first_cell < last_cell) write_cells(content, level, first_cell, last_cell, out + level.begin * content.bytes);
    singly(std::max(level.begin + last_cell * cell_anchors, first), last);
  }
}

}  // namespace

void generate_cpu(const Pyramid& pyramid, Dtype dtype, void* out, std::int64_t begin, std::int64_t end) {
  write_range(Anchors{pyramid, dtype}, out, begin, end);
}

void gather_cpu(const Pyramid& pyramid, const Indices& indices, Dtype dtype, void* out, std::int64_t begin,
                std::int64_t end) {
  const Anchors anchors{pyramid, dtype};
  Scratch& memory = anchors.memory;
  std::int64_t sides = 0;
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l) sides += pyramid.levels[l].x.cells + pyramid.levels[l].y.cells;
  const bool looks_up_centres = sides <= std::min(kMostNumbers, end - begin);
  const double *xs[kMaxLevels], *ys[kMaxLevels];
  double* next = memory.centres;
  for (std::int32_t l = 0; looks_up_centres && l < pyramid.num_levels; ++l) {
    const Level& level = pyramid.levels[l];
    centres(pyramid, level.x, 0, level.x.cells, next);
    xs[l] = next;
    next += level.x.cells;
    centres(pyramid, level.y, 0, level.y.cells, next);
    ys[l] = next;
    next += level.y.cells;
  }
  std::int64_t of_x[kMaxComponents], of_y[kMaxComponents];  // all ones where a component moves
  for (int k = 0; k < kMaxComponents; ++k) {
    of_x[k] = pyramid.layout.along_x >> k & 1 ? -1 : 0;
    of_y[k] = pyramid.layout.along_y >> k & 1 ? -1 : 0;
  }
  const bool sum = anchors.is_sum();
  const int components = pyramid.layout.components;
  for (constexpr std::int64_t kMost = kMaxCellAnchors; begin < end; begin += kMost) {  // rounded at once
    const std::int64_t count = std::min(kMost, end - begin);
    double* value = memory.values;
    for (std::int64_t i = 0; i < count; ++i) {
      const Position at = locate(pyramid, wrapped(pyramid, index_at(indices, begin + i)));
      const Level& level = pyramid.levels[at.level];
      const double x =
          looks_up_centres ? xs[at.level][at.column] : centre<false>(pyramid.arithmetic, level.x, at.column);
      const double y = looks_up_centres ? ys[at.level][at.row] : centre<false>(pyramid.arithmetic, level.y, at.row);
      const double* const cell_anchor = cell_anchor_at(pyramid, level, at.cell_anchor);
      for (int k = 0; k < components; ++k)
        *value++ = sum ? cell_anchor[k] + double_of((bits_of(x) & of_x[k]) | (bits_of(y) & of_y[k]))
                       : component<false>(pyramid, cell_anchor[k], k, x, y);
    }
    round_values(memory.values, count * components, dtype, static_cast<unsigned char*>(out) + begin * anchors.bytes);
  }
}

void flags_cpu(const Pyramid& pyramid, const AnchorPredicate& predicate, bool* out, std::int64_t begin,
               std::int64_t end) {
  write_range(Flags{pyramid, predicate}, out, begin, end);
}

}  // namespace anchor_ext
