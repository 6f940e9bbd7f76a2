// The CPU's share of the work, one thread's at a time.
//
// What moves with the column does not depend on the row, and the other way round. So there are two small tables, of
// columns and of rows, and what is written is those two combined: one pass at the speed of a fill, whatever the
// arithmetic and the output type. What limits that pass is where its bytes go, so that it is kept from reading much:
//   - what a row repeats stays in registers, where the machine has enough of them;
//   - where a number is but a sum rounded to float32, and there are more of them than a second cache keeps (or no pass
//     for tables), the tables hold the centres, and a machine with AVX-512 adds and rounds whenever it writes;
//   - else the arithmetic and the roundings are done once per column and once per row, and what is read again and again
//     is small: with AVX-512 numbers of 16 bits are kept in 16 bits, not in the 32 of the pair that they will be in;
//   - the columns' table stays in the first cache beside what is written: where it is too wide for that, a part of it
//     serves many rows before the next one does;
//   - runs are long, and follow one another in memory;
//   - what the last cache cannot hold is written past the caches.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#include "anchors/anchors.h"
#include "anchors/passes.h"

namespace anchor_ext {
namespace {

constexpr std::int64_t kTableBytes = 65536;  // of the columns' table and of the rows'
constexpr std::int64_t kLine = 64;           // bytes: vectors that straddle two cache lines load at half speed
constexpr std::int64_t kPassBytes = 512;     // that the innermost loop should have to get going
constexpr std::int64_t kRows = 64;           // computed at once
constexpr std::int64_t kSingleRows = 1024;   // where a row has but one entry
constexpr std::int64_t kStreamBytes = std::int64_t{32} << 20;  // more than a last cache keeps beside all else
constexpr std::int64_t kCacheBytes = std::int64_t{1} << 20;    // more than many second caches keep
constexpr std::int64_t kStagedBytes = 8192;                    // at a time, of what goes past the caches
constexpr std::int64_t kCentres = 1024;                        // computed at once
static_assert(passes::kTileBytes >= 2 * kMaxCellAnchors * static_cast<std::int64_t>(sizeof(double)) &&
                  passes::kTileBytes >= 17 * kPassBytes,
              "a row's ys must fit: see repeated()");
static_assert(kTableBytes >= kMaxComponents * kMaxCellAnchors * static_cast<std::int64_t>(sizeof(double)),
              "a cell must fit");

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

// Where the passes read. Not on the stack, of which a thread may have been given little.
class Tables {
 public:
  Tables() : memory_(static_cast<Memory*>(std::aligned_alloc(kLine, sizeof(Memory)))) {
    if (memory_ == nullptr) throw std::bad_alloc();
  }
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;
  ~Tables() { std::free(memory_); }

  void* x() const { return memory_->x; }
  void* y() const { return memory_->y; }
  void* staged() const { return memory_->staged; }
  double* centres() const { return memory_->centres; }
  double* x_numbers() const { return memory_->x_numbers; }
  double* y_numbers() const { return memory_->y_numbers; }

 private:
  static constexpr std::int64_t kSpillBytes = passes::kSpill * static_cast<std::int64_t>(sizeof(double));
  struct alignas(kLine) Memory {
    double before_x[passes::kBefore];  // read with a row's first line, and not written
    unsigned char x[kTableBytes + kSpillBytes], y[kTableBytes + kSpillBytes];
    unsigned char staged[kTableBytes + kSpillBytes];  // a cell must fit here, too
    double centres[kCentres + passes::kSpill];
    double x_numbers[2 * kMaxCellAnchors + passes::kSpill];
    double y_numbers[kPassBytes / 4 * 17 + passes::kSpill];  // see repeated(): a pass and 16 cells as large
  };
  Memory* memory_;
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

// Of `length` numbers the first `count` are there; the others repeat them.
template <typename Number>
void replicate(Number* numbers, std::int64_t count, std::int64_t length) {
  for (std::int64_t done = count; done < length; done *= 2)
    std::memcpy(numbers + done, numbers, static_cast<std::size_t>(std::min(done, length - done)) * sizeof(Number));
}

// How many entries of a row, which has `cell` of them per cell, its table holds for a pass that goes through it again
// and again: enough to get that going, some number of times `step` cells, and no more cells than the row has.
template <typename Entry>
std::int64_t repeated(std::int64_t cell, std::int64_t step, const Level& level) {
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(Entry));
  if (cell == 1 || cell * kBytes >= kPassBytes) return cell;
  std::int64_t cells = step;
  while (cells * cell * kBytes < kPassBytes) cells += step;
  return std::min(cells, level.x.cells) * cell;
}

// What the rows' table holds of a row: a cell's numbers, repeated to the length that a pass works with; as they will be
// written, for the pass to repeat; or the centre only, where the pass adds the numbers. The columns' table has the same
// widths.
struct Row {
  enum Holds { whole, cell, centre } holds;
  std::int64_t length;  // entries per row
};

// The three kinds of content that write_range() writes. Each has `of_x` numbers per anchor of a column, `of_y` of a row
// and `of_out` in the output. Each says what its tables hold, prepares for a level, fills cells of either table,
// combines runs of anchors of `rows` rows, and writes a single one. `spills`: see passes.h.

// Anchors whose components are pairs: one moves with the column and one with the row, or neither moves.
template <typename T>
struct Paired {
  using Number = Moved<T>;
  using Entry = passes::Entry<T>;
  const Pyramid& pyramid;
  const int of_out = pyramid.layout.components;  // or 2: the first pair only
  const int of_x = of_out / 2, of_y = of_out / 2;
  const bool swapped = pyramid.layout.along_y & 1;  // y comes first
  const int moving = pyramid.layout.along_x | pyramid.layout.along_y;
  const bool once = is_rounded_once<T>(pyramid);
  const bool all_move_once = once && moving == (1 << of_out) - 1;
  const Tables& tables = anchor_ext::tables();
  static constexpr std::int64_t kCentre = sizeof(double) / sizeof(Entry);   // entries in its place
  static constexpr std::int64_t kNumbers = sizeof(Entry) / sizeof(Number);  // in an entry's place

  // The cell anchors' components along one axis.
  void halves(const Level& level, bool second, double* to) const {
    const double* cell_anchor = cell_anchor_at(pyramid, level, 0) + (second ? 1 : 0);
    const double* const behind = cell_anchor + pyramid.layout.components * level.num_cell_anchors;
    if (of_x == 1)
      for (; cell_anchor < behind; cell_anchor += pyramid.layout.components) *to++ = *cell_anchor;
    else
      for (; cell_anchor < behind; cell_anchor += 2) *to++ = *cell_anchor;
  }
  Row row(const Level& level, bool large) const {
    const std::int64_t cell = level.num_cell_anchors * of_y;
    if constexpr (sizeof(T) < sizeof(double)) {
      const bool cells = cell > 1 && passes::weaves_cells(Number{}, cell);
      const bool sums = std::is_same_v<T, float> && all_move_once && passes::weaves_sums(cell);
      if (sums && (!cells || large)) return {Row::centre, kCentre};
      if (cells) return {Row::cell, cell / kNumbers};
    }
    return {Row::whole, repeated<Entry>(cell, passes::kVector<T> / of_y, level)};
  }
  // Entries per column.
  std::int64_t column(const Level& level, const Row& row) const {
    if (row.holds == Row::centre) return kCentre;
    return level.num_cell_anchors * of_x / (row.holds == Row::cell ? kNumbers : 1);
  }
  void prepare(const Level& level, const Row& row) const {
    if (!all_move_once) return;
    halves(level, swapped, tables.x_numbers());
    halves(level, !swapped, tables.y_numbers());
    if (row.holds == Row::whole) replicate(tables.y_numbers(), level.num_cell_anchors * of_y, row.length);
  }
  void centres(const Side& side, std::int64_t begin, std::int64_t end, double* to) const {
    if (pyramid.plain)
      for (std::int64_t cell = begin; cell < end; ++cell)
        to[cell - begin] = centre<true>(pyramid.arithmetic, side, cell);
    else
      for (std::int64_t cell = begin; cell < end; ++cell)
        to[cell - begin] = centre<false>(pyramid.arithmetic, side, cell);
  }
  // Of cells begin .. end-1 along one axis, `length` entries each.
  void cells(const Level& level, bool second, const Side& side, const double* numbers, std::int64_t begin,
             std::int64_t end, std::int64_t length, Entry* to) const {
    const std::int64_t count = level.num_cell_anchors * of_x;
    const bool at_once = all_move_once && (length < 2 * count || sizeof(T) > 2);  // rounding to 16 bits is dear
    for (; begin < end; begin += kCentres) {
      const std::int64_t behind = std::min(begin + kCentres, end);
      centres(side, begin, behind, tables.centres());
      if (at_once) {
        passes::sums(T{}, to, numbers, length, tables.centres(), behind - begin, second);
        to += (behind - begin) * length;
        continue;
      }
      for (const double* centre = tables.centres(); centre < tables.centres() + (behind - begin); ++centre) {
        if (all_move_once)
          passes::sums(T{}, to, numbers, count, centre, 1, second);
        else
          entries(level, second, *centre, to);
        replicate(to, count, length);
        to += length;
      }
    }
  }
  // The same in 16 bits, one cell behind the other.
  void narrow_cells(const Level& level, bool second, const Side& side, const double* numbers, std::int64_t begin,
                    std::int64_t end, Entry* table) const {
    const std::int64_t count = level.num_cell_anchors * of_x;
    auto* to = reinterpret_cast<Number*>(table);
    for (; begin < end; begin += kCentres) {
      const std::int64_t some = std::min(kCentres, end - begin);
      centres(side, begin, begin + some, tables.centres());
      if (all_move_once)
        passes::narrow_sums(T{}, to, numbers, count, tables.centres(), some);
      else
        for (std::int64_t cell = 0; cell < some; ++cell)
          entries(level, second, tables.centres()[cell], to + cell * count);
      to += some * count;
    }
  }
  // Of one cell, where there is more to do than a sum.
  template <typename To>
  void entries(const Level& level, bool second, double centre, To* to) const {
    const double* cell_anchor = cell_anchor_at(pyramid, level, 0);
    for (std::int32_t a = 0; a < level.num_cell_anchors; ++a, cell_anchor += pyramid.layout.components)
      for (int k = second; k < of_out; k += 2) {
        const double value = once ? cell_anchor[k] + (moving >> k & 1 ? centre : 0.0)
                                  : component<false>(pyramid, cell_anchor[k], k, centre, centre);
        if constexpr (std::is_same_v<To, Entry>)
          *to++ = passes::entry<T>(value, second);
        else
          *to++ = bits(round_to<T>(value));
      }
  }
  void columns(const Level& level, std::int64_t begin, std::int64_t end, const Row& row, Entry* to) const {
    if (row.holds == Row::centre) return centres(level.x, begin, end, reinterpret_cast<double*>(to));
    const double* const numbers = tables.x_numbers();
    if constexpr (sizeof(T) == 2)
      if (row.holds == Row::cell) return narrow_cells(level, swapped, level.x, numbers, begin, end, to);
    cells(level, swapped, level.x, numbers, begin, end, level.num_cell_anchors * of_x, to);
  }
  void rows(const Level& level, std::int64_t begin, std::int64_t end, const Row& row, Entry* to) const {
    if (row.holds == Row::centre) return centres(level.y, begin, end, reinterpret_cast<double*>(to));
    const double* const numbers = tables.y_numbers();
    if constexpr (sizeof(T) == 2)
      if (row.holds == Row::cell) return narrow_cells(level, !swapped, level.y, numbers, begin, end, to);
    cells(level, !swapped, level.y, numbers, begin, end, row.length, to);
  }
  void combine(const Level& level, Number* out, const Entry* xs, const Entry* ys, std::int64_t anchors, const Row& row,
               std::int64_t rows, bool spills) const {
    const std::int64_t pairs = anchors * of_x;
    const std::int64_t period = level.num_cell_anchors * of_y;
    if constexpr (std::is_same_v<T, float>)
      if (row.holds == Row::centre)
        return passes::weave_sums({out, tables.x_numbers(), tables.y_numbers(), reinterpret_cast<const double*>(xs),
                                   reinterpret_cast<const double*>(ys), pairs, period, rows, swapped});
    if constexpr (sizeof(T) < sizeof(double))
      if (row.holds == Row::cell)
        return passes::weave_cells(passes::WeaveCells<Number>{out, reinterpret_cast<const Number*>(xs),
                                                              reinterpret_cast<const Number*>(ys), pairs, period, rows,
                                                              swapped});
    passes::weave({out, xs, ys, pairs, row.length, rows, swapped, spills});
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
  using Entry = Number;
  const Pyramid& pyramid;
  const int of_out = 5, of_x = 5, of_y = 5;
  const bool once = is_rounded_once<T>(pyramid);
  const Tables& tables = anchor_ext::tables();

  Row row(const Level& level, bool) const {
    return {Row::whole, repeated<Number>(level.num_cell_anchors * of_y, 1, level)};
  }
  void prepare(const Level&, const Row&) const {}

  template <bool of_row>
  void boxes(const Level& level, const Side& side, std::int64_t begin, std::int64_t end, std::int64_t length,
             Number* to) const {
    constexpr int moving = of_row ? kCxcywha.along_y : kCxcywha.along_x;
    for (std::int64_t cell = begin; cell < end; ++cell) {
      const double centre = anchor_ext::centre<false>(pyramid.arithmetic, side, cell);
      const double* cell_anchor = cell_anchor_at(pyramid, level, 0);
      Number* number = to;
      for (std::int32_t a = 0; a < level.num_cell_anchors; ++a, cell_anchor += kCxcywha.components)
        for (int k = 0; k < kCxcywha.components; ++k, ++number) {
          *number = 0;
          if ((kCxcywha.along_y >> k & 1) != of_row) continue;
          const T value = round_to<T>(once ? cell_anchor[k] + (moving >> k & 1 ? centre : 0.0)
                                           : component<false>(pyramid, cell_anchor[k], k, centre, centre));
          std::memcpy(number, &value, sizeof value);
        }
      replicate(to, number - to, length);
      to += length;
    }
  }
  std::int64_t column(const Level& level, const Row&) const { return level.num_cell_anchors * of_x; }
  void columns(const Level& level, std::int64_t begin, std::int64_t end, const Row&, Number* to) const {
    boxes<false>(level, level.x, begin, end, level.num_cell_anchors * of_x, to);
  }
  void rows(const Level& level, std::int64_t begin, std::int64_t end, const Row& row, Number* to) const {
    boxes<true>(level, level.y, begin, end, row.length, to);
  }
  void combine(const Level&, Number* out, const Number* xs, const Number* ys, std::int64_t anchors, const Row& row,
               std::int64_t rows, bool) const {
    for (std::int64_t r = 0; r < rows; ++r)
      passes::either(out + r * anchors * of_out, xs, ys + r * row.length, anchors * of_out, row.length);
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
  using Entry = bool;
  const Pyramid& pyramid;
  const Question& question;
  const int of_out = 1, of_x = 1, of_y = 1;
  const Tables& tables = anchor_ext::tables();

  Row row(const Level& level, bool) const { return {Row::whole, repeated<Number>(level.num_cell_anchors, 1, level)}; }
  void prepare(const Level&, const Row&) const {}
  void answers(const Level& level, std::uint8_t axis, std::int64_t valid, const Side& side, std::int64_t begin,
               std::int64_t end, std::int64_t length, bool* to) const {
    for (std::int64_t cell = begin; cell < end; ++cell, to += length) {
      if (!question.of_components || cell >= valid) {
        std::fill_n(to, length, cell < valid);
        continue;
      }
      const double at = centre<false>(pyramid.arithmetic, side, cell);
      for (std::int32_t a = 0; a < level.num_cell_anchors; ++a)
        to[a] = is_within(pyramid, question, cell_anchor_at(pyramid, level, a), axis, at);
      replicate(to, level.num_cell_anchors, length);
    }
  }
  std::int64_t column(const Level& level, const Row&) const { return level.num_cell_anchors * of_x; }
  void columns(const Level& level, std::int64_t begin, std::int64_t end, const Row&, bool* to) const {
    const std::int64_t valid = question.valid[&level - pyramid.levels].columns;
    answers(level, pyramid.layout.along_x, valid, level.x, begin, end, level.num_cell_anchors, to);
  }
  void rows(const Level& level, std::int64_t begin, std::int64_t end, const Row& row, bool* to) const {
    const std::int64_t valid = question.valid[&level - pyramid.levels].rows;
    answers(level, pyramid.layout.along_y, valid, level.y, begin, end, row.length, to);
  }
  void combine(const Level&, bool* out, const bool* xs, const bool* ys, std::int64_t anchors, const Row& row,
               std::int64_t rows, bool) const {
    for (std::int64_t r = 0; r < rows; ++r)
      passes::both(out + r * anchors, xs, ys + r * row.length, anchors, row.length);
  }
  void one(std::int64_t flat, bool* out) const { *out = flag_at(pyramid, question, flat); }
};

// Cells begin .. end-1 of a level, row after row; `out` is where the level's first anchor lies, and `behind` where the
// thread's last one ends: up to there the passes may spill, as what comes next is yet to be written. `large`: more
// is written than a second cache keeps.
template <typename Content>
void write_level(const Content& content, const Level& level, typename Content::Number* out, std::int64_t begin,
                 std::int64_t end, const typename Content::Number* behind, bool large, bool streamed) {
  using Number = typename Content::Number;
  using Entry = typename Content::Entry;
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(Entry));
  constexpr auto kNumberBytes = static_cast<std::int64_t>(sizeof(Number));
  auto* const xs = static_cast<Entry*>(content.tables.x());  // [columns, content.column()]
  auto* const ys = static_cast<Entry*>(content.tables.y());  // [rows, row.length]
  auto* const staged = static_cast<Number*>(content.tables.staged());

  // Few divisions: of a small image they would be a third of the work.
  const std::int64_t columns = level.x.cells, cell = level.num_cell_anchors;
  const Row of_table = content.row(level, large);
  const std::int64_t x_cell = content.column(level, of_table), out_cell = cell * content.of_out;
  const std::int64_t fit = columns * x_cell * kBytes <= kTableBytes ? columns : kTableBytes / (x_cell * kBytes);
  const std::int64_t fitting =
      of_table.length * kBytes * kRows <= kTableBytes ? kRows : kTableBytes / (of_table.length * kBytes);
  const std::int64_t rows = of_table.length == 1 ? kSingleRows : fitting;
  const std::int64_t stage =  // cells
      streamed ? std::max<std::int64_t>(1, kStagedBytes / (out_cell * kNumberBytes)) : 0;

  const std::int64_t first_row = divide(begin, level.by_columns), last_row = divide(end - 1, level.by_columns);
  const std::int64_t behind_whole = (last_row + 1) * columns == end ? last_row + 1 : last_row;  // whole rows end here
  const bool one_row = first_row == last_row;
  const std::int64_t first_column = one_row ? begin - first_row * columns : 0;
  const std::int64_t end_column = one_row ? end - first_row * columns : columns;
  const std::int64_t at_once = streamed ? 1 : rows;
  content.prepare(level, of_table);

  for (std::int64_t left = first_column; left < end_column; left += fit) {
    const std::int64_t right = std::min(left + fit, end_column);
    content.columns(level, left, right, of_table, xs);
    for (std::int64_t computed = first_row, row = first_row; row <= last_row;) {
      const std::int64_t first_of_table = computed;
      computed = std::min(first_of_table + rows, last_row + 1);
      content.rows(level, first_of_table, computed, of_table, ys);
      while (row < computed) {
        const std::int64_t first = std::max(left, begin - row * columns);
        const std::int64_t last = std::min(right, end - row * columns);
        const bool whole = first == 0 && last == columns;  // rows that follow one another without a gap
        const std::int64_t together = whole ? std::min(std::min(computed, behind_whole) - row, at_once) : 1;
        const Entry* const of_row = ys + (row - first_of_table) * of_table.length;
        Number* to = out + (row * columns + first) * out_cell;
        row += together;
        if (first >= last) continue;  // the range begins behind these columns, or ends before them
        const Entry* from = xs + (first - left) * x_cell;
        std::int64_t run = (last - first) * cell;
        if (!streamed) {
          const bool in_order = left == first_column && right == end_column;  // all that comes after it is yet to come
          const std::int64_t count = together * run * content.of_out;
          const bool spills = in_order && behind - to >= count + passes::kSpill;
          content.combine(level, to, from, of_row, run, of_table, together, spills);
          continue;
        }
        for (; run > 0; run -= stage * cell, from += stage * x_cell, to += stage * out_cell) {
          const std::int64_t some = std::min(run, stage * cell);
          content.combine(level, staged, from, of_row, some, of_table, 1, true);
          passes::stream(to, staged, some * content.of_out * kNumberBytes);
        }
      }
    }
  }
}

template <typename Content>
void write_range(const Content& content, void* memory, std::int64_t flat, std::int64_t end) {
  using Number = typename Content::Number;
  const Pyramid& pyramid = content.pyramid;
  auto* const out = static_cast<Number*>(memory);
  const bool streamed =
      pyramid.num_anchors * content.of_out * static_cast<std::int64_t>(sizeof(Number)) >= kStreamBytes;
  const Number* const behind = out + end * content.of_out;
  const std::int64_t bytes = (end - flat) * content.of_out * static_cast<std::int64_t>(sizeof(Number));
  const bool large = streamed || bytes > kCacheBytes;
  while (flat < end) {
    const Position at = locate(pyramid, flat);
    const Level& level = pyramid.levels[at.level];
    const std::int64_t cell = at.row * level.x.cells + at.column;
    const std::int64_t left = divide(end - flat, level.by_cell_anchors);
    const std::int64_t cells = std::min(level.y.cells * level.x.cells - cell, left);
    if (at.cell_anchor == 0 && cells > 0) {
      write_level(content, level, out + content.of_out * level.begin, cell, cell + cells, behind, large, streamed);
      flat += cells * level.num_cell_anchors;
    } else {  // a cell that the range begins or ends in
      content.one(flat, out + content.of_out * flat);
      ++flat;
    }
  }
  if (streamed) passes::streamed();
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
      passes::repeat(static_cast<Moved<T>*>(strides) + first, bits(round_to<T>(stride)), last - first);
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
