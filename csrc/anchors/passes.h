// The loops that all of the CPU's work ends in, over plain arrays. The compiler makes vectors of them, for the machine
// that it compiles for and for newer ones, chosen at load time. Those for AVX-512 alone, which one has to ask for
// first, are written by hand (passes_avx512.cpp, passes_narrow.cpp).
//
// Where a pass is said to spill, it works in whole vectors: it may read and write up to kSpill numbers behind what was
// asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/rounding.h"

// Compiled for these, too, of which the loader takes the newest that the machine has.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(ANCHOR_EXT_NO_CLONES)
#define ANCHOR_EXT_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ANCHOR_EXT_CLONES
#endif

namespace anchor_ext::passes {

constexpr std::int64_t kSpill = 64;
constexpr std::int64_t kBefore = 16;  // xs: the line that a row begins in has up to 15 pairs, or 3 cells, before it

// Of an output type, how a table for weave() holds its numbers: numbers of 16 bits in 32, where they lie in the pair
// that they will be written in.
template <typename T>
using Entry = std::conditional_t<sizeof(T) == 2, std::uint32_t, T>;

// Rounds once. `second`: of the pairs that the number will be written in.
template <typename T>
inline __attribute__((always_inline)) Entry<T> entry(double value, bool second) {
  if constexpr (sizeof(T) > 2) {
    return round_to<T>(value);
  } else {  // an integer of 64 bits, then one of 32: compilers make vectors of these, and not of 16 among them
    constexpr int kMantissa = std::is_same_v<T, BFloat16> ? 7 : 10;
    const bool high = second == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
    return static_cast<std::uint32_t>(round_to_16<kMantissa>(value)) << (high ? 16 : 0);
  }
}

// out[cell * count + j] = numbers[j] + centres[cell], rounded once to T; for j < count, cell < cells. `second`: see
// entry(). Spills.
void sums(double, double* out, const double* numbers, std::int64_t count, const double* centres, std::int64_t cells,
          bool second);
void sums(float, float* out, const double* numbers, std::int64_t count, const double* centres, std::int64_t cells,
          bool second);
void sums(Float16, std::uint32_t* out, const double* numbers, std::int64_t count, const double* centres,
          std::int64_t cells, bool second);
void sums(BFloat16, std::uint32_t* out, const double* numbers, std::int64_t count, const double* centres,
          std::int64_t cells, bool second);

// Entries in the widest vector.
template <typename T>
inline constexpr std::int64_t kVector = 64 / sizeof(Entry<T>);

// Of the xs that a pass goes through for row after row: no large part of a first cache, which the lines that are
// written pass through as well. (16 bits allow themselves twice as much.)
constexpr std::int64_t kTileBytes = 12288;

// Pairs of numbers, the same xs for every row, and each row's own `period` ys again and again:
// out[row * pairs + i] = {xs[i], ys of the row[i % period]}, or the other way round where `swapped`. Spills where
// `spills`, behind the last row.
template <typename T>  // double, float, or std::uint16_t for either type of 16 bits
struct Weave {
  T* out;
  const Entry<T>*xs, *ys;
  std::int64_t pairs, period, rows;
  bool swapped, spills;
};
void weave(const Weave<double>& weave);
void weave(const Weave<float>& weave);
void weave(const Weave<std::uint16_t>& weave);

// The same where a row's ys are those of one cell, up to kCell of them, one row's behind the other's, and either table
// has numbers as they will be written. Never spills; reads up to kSpill behind either table, and up to kBefore before
// xs.
constexpr std::int64_t kCell = 32;
template <typename Number>  // float, or std::uint16_t for either type of 16 bits
struct WeaveCells {
  Number* out;
  const Number *xs, *ys;
  std::int64_t pairs, period, rows;
  bool swapped;
};
void weave_cells(const WeaveCells<float>& weave);
void weave_cells(const WeaveCells<std::uint16_t>& weave);

// Whether there is such a pass, for this machine and a period: with AVX-512, for most of up to kCell; in 16 bits, of
// the even ones only.
bool weaves_cells(float, std::int64_t period);
bool weaves_cells(std::uint16_t, std::int64_t period);

// And sums() for such a table, of cells of up to kCell numbers, where weaves_cells() says that there is a pass. Spills,
// but reads no centres behind the last.
void narrow_sums(Float16, std::uint16_t* out, const double* numbers, std::int64_t count, const double* centres,
                 std::int64_t cells);
void narrow_sums(BFloat16, std::uint16_t* out, const double* numbers, std::int64_t count, const double* centres,
                 std::int64_t cells);

// As weave_cells(), without tables: the numbers are cells' own and the centres', xs of columns and ys of rows, added
// and rounded once as often as they are written. Never spills; reads up to kSpill behind the numbers and xs, and up to
// kBefore before xs.
struct WeaveSums {
  float* out;
  const double *x_numbers, *y_numbers, *xs, *ys;
  std::int64_t pairs, period, rows;
  bool swapped;
};
void weave_sums(const WeaveSums& weave);
bool weaves_sums(std::int64_t period);

// out[i] = number for i < count.
void repeat(double* out, double number, std::int64_t count);
void repeat(float* out, float number, std::int64_t count);
void repeat(std::uint16_t* out, std::uint16_t number, std::int64_t count);

// out[i] = xs[i] & ys[i % period] for i < count.
void both(bool* out, const bool* xs, const bool* ys, std::int64_t count, std::int64_t period);

// out[i] = xs[i] | ys[i % period] for i < count.
void either(std::uint64_t* out, const std::uint64_t* xs, const std::uint64_t* ys, std::int64_t count,
            std::int64_t period);
void either(std::uint32_t* out, const std::uint32_t* xs, const std::uint32_t* ys, std::int64_t count,
            std::int64_t period);
void either(std::uint16_t* out, const std::uint16_t* xs, const std::uint16_t* ys, std::int64_t count,
            std::int64_t period);

// Copies `bytes` past the caches, where the machine can. Before another thread reads them, this one calls streamed().
void stream(void* out, const void* in, std::int64_t bytes);
void streamed();

}  // namespace anchor_ext::passes
