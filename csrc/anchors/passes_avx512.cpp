// For machines with AVX-512: passes that write whole lines of memory, of what stays in registers.
#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "anchors/avx512.h"

#if defined(ANCHOR_EXT_HAS_AVX512)

namespace anchor_ext::passes {
namespace {

constexpr std::uintptr_t kLine = 64;  // bytes of memory: a store that straddles two of them counts twice
constexpr int kMaxPairs = 16;         // of a line: of numbers of 16 bits
constexpr int kMaxLines = 9;          // in registers; more would serve but cells of 11 and 13, and 15, which are rare

// Of the pairs that fill all lines, those from `begin` to before `end`.
template <typename Lines, typename X, typename Number>
ANCHOR_EXT_AVX512_INLINE void put_some(const Lines& lines, const X* xs, Number* out, std::int64_t begin,
                                       std::int64_t end) {
  constexpr int kPairsOfLine = Lines::kPairsOfLine, kLanesOfPair = kFloats / kPairsOfLine;
#pragma GCC unroll 13
  for (int v = 0; v < Lines::kLines; ++v) {
    const std::int64_t first = std::max<std::int64_t>(begin - kPairsOfLine * v, 0);
    const std::int64_t behind = std::min<std::int64_t>(end - kPairsOfLine * v, kPairsOfLine);
    if (behind <= 0) break;
    if (first >= behind) continue;
    const std::uint32_t some = (std::uint32_t{1} << kLanesOfPair * behind) - (std::uint32_t{1} << kLanesOfPair * first);
    _mm512_mask_storeu_epi32(out + 2 * kPairsOfLine * v, static_cast<__mmask16>(some), lines.line(xs, v));
  }
}

// A row, whose first line begins `before` pairs before it: fewer than all lines have, and there are xs of them.
template <typename Lines, typename X, typename Number>
ANCHOR_EXT_AVX512_INLINE void put_row(const Lines& lines, const X* xs, Number* out, std::int64_t before,
                                      std::int64_t pairs) {
  constexpr int kTogether = Lines::kLines * Lines::kPairsOfLine;
  out -= 2 * before;
  pairs += before;
  if (before > 0) {
    put_some(lines, xs, out, before, std::min<std::int64_t>(pairs, kTogether));
    pairs -= kTogether, xs += Lines::kStep, out += 2 * kTogether;
  }
  for (; pairs >= kTogether; pairs -= kTogether, xs += Lines::kStep, out += 2 * kTogether)
#pragma GCC unroll 13
    for (int v = 0; v < Lines::kLines; ++v) _mm512_storeu_si512(out + 2 * Lines::kPairsOfLine * v, lines.line(xs, v));
  put_some(lines, xs, out, 0, pairs);
}

// How many lines a period and its repetitions fill to the last pair, and of the few some more for a longer loop. 0
// where there is no pass: for more than kMaxLines, and for seven, which are as rare.
constexpr int lines_of(std::int64_t period, std::int64_t pairs_of_line) {
  const std::int64_t power = period & -period;  // of two, the largest that divides it
  const std::int64_t lines = period / std::min(power, pairs_of_line);
  if (lines == 1 || lines == 2 || lines == 4) return 4;
  if (lines == 3) return 6;
  return lines == 5 || lines == kMaxLines ? static_cast<int>(lines) : 0;
}

// i % period, for every period. `multiple`: the first multiple of the period that is no less than a line's pairs, from
// where one may begin up to a line earlier.
struct Repetition {
  static constexpr int kLength = kMaxPairs * kMaxLines + static_cast<int>(kCell);
  std::uint8_t from[kCell + 1][kLength];
  std::uint8_t multiple[kCell + 1];
};
constexpr Repetition repetition() {
  Repetition result{};
  for (int period = 1; period <= kCell; ++period) {
    for (int i = 0; i < Repetition::kLength; ++i) result.from[period][i] = static_cast<std::uint8_t>(i % period);
    result.multiple[period] = static_cast<std::uint8_t>((kMaxPairs + period - 1) / period * period);
  }
  return result;
}
constexpr Repetition kRepetition = repetition();

// Calls `function` with one of what lines_of() says, which it knows while it is compiled.
template <typename Function>
void with_lines(int lines, const Function& function) {
  switch (lines) {
    case 4:
      return function(std::integral_constant<int, 4>{});
    case 5:
      return function(std::integral_constant<int, 5>{});
    case 6:
      return function(std::integral_constant<int, 6>{});
    case kMaxLines:
      return function(std::integral_constant<int, kMaxLines>{});
  }
}

// What stays in registers of a row: its ys, where they are in a pair, with nothing where an x is.
template <typename Number, int lines, bool swapped>
struct Cells {
  static constexpr int kLines = lines, kPairsOfLine = kLine / (2 * sizeof(Number)), kStep = lines * kPairsOfLine;
  __m512i ys[kLines];

  // `of_row`: kCell numbers, of which the row's ys come first; `repetition`: for each pair of the lines, which y it
  // has.
  ANCHOR_EXT_AVX512_INLINE void set(const Number* of_row, const std::uint8_t* repetition) {
    const __m512i first = _mm512_loadu_si512(of_row);
    if constexpr (sizeof(Number) == 2) {
#pragma GCC unroll 9
      for (int v = 0; v < kLines; ++v) {
        const auto* const of_line = reinterpret_cast<const __m128i*>(repetition + kPairsOfLine * v);
        const __m512i once = _mm512_cvtepu8_epi32(_mm_loadu_si128(of_line));
        const __m512i from = swapped ? once : _mm512_slli_epi32(once, 16);
        ys[v] = _mm512_maskz_permutexvar_epi16(swapped ? 0x55555555 : 0xaaaaaaaa, from, first);
      }
    } else {
      const __m512i second = _mm512_loadu_si512(of_row + kFloats);
#pragma GCC unroll 9
      for (int v = 0; v < kLines; ++v) {
        const auto* const of_line = reinterpret_cast<const __m128i*>(repetition + kPairsOfLine * v);
        const __m512i once = _mm512_cvtepu8_epi64(_mm_loadl_epi64(of_line));
        const __m512i from = swapped ? once : _mm512_slli_epi64(once, 32);
        ys[v] = _mm512_maskz_permutex2var_epi32(swapped ? 0x5555 : 0xaaaa, first, from, second);
      }
    }
  }
  ANCHOR_EXT_AVX512_INLINE __m512i line(const Number* xs, int v) const {
    const __m256i of_line = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(xs + kPairsOfLine * v));
    if constexpr (sizeof(Number) == 2) {
      const __m512i x = _mm512_cvtepu16_epi32(of_line);
      return _mm512_or_si512(swapped ? _mm512_slli_epi32(x, 16) : x, ys[v]);
    } else {
      const __m512i x = _mm512_cvtepu32_epi64(of_line);
      return _mm512_or_si512(swapped ? _mm512_slli_epi64(x, 32) : x, ys[v]);
    }
  }
};

template <typename Number, int lines, bool swapped>
ANCHOR_EXT_AVX512 __attribute__((noinline)) void weave_cells_of(const WeaveCells<Number>& weave) {
  constexpr std::int64_t kPairsOfLine = Cells<Number, lines, swapped>::kPairsOfLine, kTogether = lines * kPairsOfLine;
  // In 16 bits all go this way, also those to memory, where they go faster in order; float32 does so by weave_sums().
  constexpr std::int64_t kBytes = sizeof(Number) == 2 ? 2 * kTileBytes : kTileBytes;
  constexpr auto kTile = kBytes / static_cast<std::int64_t>(sizeof(Number)) / kTogether * kTogether;
  static_assert(kPairsOfLine - 1 <= kBefore && kPairsOfLine <= kTogether, "see passes.h, put_row()");
  const std::uint8_t* const repetition = kRepetition.from[weave.period] + kRepetition.multiple[weave.period];
  Cells<Number, lines, swapped> cells;
  for (std::int64_t left = 0; left < weave.pairs; left += kTile) {
    const std::int64_t pairs = std::min(kTile, weave.pairs - left);
    for (std::int64_t row = 0; row < weave.rows; ++row) {
      Number* const out = weave.out + 2 * (row * weave.pairs + left);
      // The line that a row begins in: what the row repeats need not begin with it.
      const auto before = static_cast<int>(reinterpret_cast<std::uintptr_t>(out) % kLine / (2 * sizeof(Number)));
      cells.set(weave.ys + row * weave.period, repetition - before);
      put_row(cells, weave.xs + left - before, out, before, pairs);
    }
  }
}

template <typename Number>
constexpr int lines_of(std::int64_t period) {
  return lines_of(period, static_cast<std::int64_t>(kLine / (2 * sizeof(Number))));
}

template <typename Number>
void weave_cells_with(const WeaveCells<Number>& weave) {
  with_lines(lines_of<Number>(weave.period), [&](auto lines) {
    if (weave.swapped) return weave_cells_of<Number, lines, true>(weave);
    weave_cells_of<Number, lines, false>(weave);
  });
}

// Of cells of so many numbers, how many vectors they fill to the last lane, and of the few some more for a
// longer loop. Twice as many stay in registers.
constexpr int sum_vectors(int period) {
  int vectors = period / std::min(period & -period, kDoubles);
  while (vectors < 4) vectors *= 2;
  return vectors;
}
constexpr int kMaxSumVectors = 13;

// Of number `first` of cells and those behind it, the sums with the centres of the cells that they belong to.
template <int kPeriod>
ANCHOR_EXT_AVX512_INLINE __m256 sums_of_cells(__m512d numbers, const double* centres, int first) {
  int cell = first / kPeriod;
  if constexpr (kPeriod < kDoubles) {  // of many cells
    const int begin = first % kPeriod;
    const __m512i cells =
        _mm512_setr_epi64(begin / kPeriod, (begin + 1) / kPeriod, (begin + 2) / kPeriod, (begin + 3) / kPeriod,
                          (begin + 4) / kPeriod, (begin + 5) / kPeriod, (begin + 6) / kPeriod, (begin + 7) / kPeriod);
    return _mm512_cvtpd_ps(_mm512_add_pd(numbers, _mm512_permutexvar_pd(cells, _mm512_loadu_pd(centres + cell))));
  }
  __m512d of_cells = _mm512_set1_pd(centres[cell]);
  if (++cell * kPeriod < first + kDoubles) {  // of two
    const auto behind = static_cast<__mmask8>(0xff << (cell * kPeriod - first));
    of_cells = _mm512_mask_broadcastsd_pd(of_cells, behind, _mm_load_sd(centres + cell));
  }
  // The same sum twice, the one where machines add and round, the other where they multiply.
  const bool odd = first / kDoubles % 2 == 1;
  return _mm512_cvtpd_ps(odd ? _mm512_fmadd_pd(numbers, _mm512_set1_pd(1.0), of_cells)
                             : _mm512_add_pd(numbers, of_cells));
}

// A cell's numbers and their repetitions, up to as many as the pass works with.
template <int kPeriod>
ANCHOR_EXT_AVX512_INLINE void repeat(const double* numbers, double* to) {
  for (int cell = 0; cell < kDoubles * sum_vectors(kPeriod); cell += kPeriod)
    for (int i = 0; i < kPeriod; i += kDoubles) _mm512_storeu_pd(to + cell + i, _mm512_loadu_pd(numbers + i));
}

// What stays in registers.
template <int kPeriod>
struct Sums {
  static constexpr int kLines = sum_vectors(kPeriod), kPairsOfLine = kDoubles;
  static constexpr int kStep = kLines * kDoubles / kPeriod;  // of xs, for all vectors
  __m512d numbers[kLines];
  __m512i ys[kLines];  // each twice
  __m512i twice;
  __mmask16 of_x;

  ANCHOR_EXT_AVX512_INLINE __m512i line(const double* xs, int v) const {
    const __m512 x = _mm512_castps256_ps512(sums_of_cells<kPeriod>(numbers[v], xs, kDoubles * v));
    return _mm512_mask_permutexvar_epi32(ys[v], of_x, twice, _mm512_castps_si512(x));
  }
};

// By how many pairs behind a line of memory a row begins: how many cells before it the nearest cell is that begins with
// a line, as the pass's lines do. 0 where none does.
struct CellsBefore {
  std::uint8_t of[kDoubles];
};
constexpr CellsBefore cells_before(int period) {
  CellsBefore result{};
  for (int cells = kDoubles - 1; cells >= 0; --cells)
    result.of[cells * period % kDoubles] = static_cast<std::uint8_t>(cells);
  return result;
}
constexpr int most_before(int period) {
  int most = 0;
  for (const std::uint8_t cells : cells_before(period).of) most = std::max<int>(most, cells);
  return most;
}

template <int kPeriod>
ANCHOR_EXT_AVX512 __attribute__((noinline)) void weave_sums_of(const WeaveSums& weave) {
  constexpr int kVectors = sum_vectors(kPeriod), kTogether = kVectors * kDoubles;
  static constexpr CellsBefore kBeforeLines = cells_before(kPeriod);
  static_assert(most_before(kPeriod) <= kBefore && most_before(kPeriod) * kPeriod < kTogether,
                "see passes.h, put_row()");
  alignas(64) double x_numbers[kTogether + kDoubles], y_numbers[kTogether + kDoubles];
  repeat<kPeriod>(weave.x_numbers, x_numbers);
  repeat<kPeriod>(weave.y_numbers, y_numbers);
  Sums<kPeriod> sums;
  sums.twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  sums.of_x = weave.swapped ? 0xaaaa : 0x5555;
#pragma GCC unroll 13
  for (int v = 0; v < kVectors; ++v) sums.numbers[v] = _mm512_load_pd(x_numbers + kDoubles * v);
  for (std::int64_t row = 0; row < weave.rows; ++row) {
#pragma GCC unroll 13
    for (int v = 0; v < kVectors; ++v) {
      const __m512d of_row = _mm512_add_pd(_mm512_load_pd(y_numbers + kDoubles * v), _mm512_set1_pd(weave.ys[row]));
      const __m512 y = _mm512_castps256_ps512(_mm512_cvtpd_ps(of_row));
      sums.ys[v] = _mm512_permutexvar_epi32(sums.twice, _mm512_castps_si512(y));
    }
    float* const out = weave.out + 2 * row * weave.pairs;
    const int before = kBeforeLines.of[reinterpret_cast<std::uintptr_t>(out) % kLine / (kLine / kDoubles)];
    put_row(sums, weave.xs - before, out, before * kPeriod, weave.pairs);
  }
}

using SumsPass = void (*)(const WeaveSums&);

template <int kPeriod>
constexpr SumsPass sums_pass() {
  if constexpr (sum_vectors(kPeriod) <= kMaxSumVectors) return weave_sums_of<kPeriod>;
  return nullptr;
}

template <int... k>
constexpr std::array<SumsPass, sizeof...(k)> sums_passes(std::integer_sequence<int, k...>) {
  return {sums_pass<2 * (k + 1)>()...};
}

// Of 2, 4, ... numbers.
constexpr std::array<SumsPass, kCell / 2> kSumsPasses = sums_passes(std::make_integer_sequence<int, kCell / 2>());

bool has_avx512() {
  static const bool has = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0;
  return has;
}

}  // namespace

bool weaves_cells(float, std::int64_t period) {
  return has_avx512() && period <= kCell && lines_of<float>(period) != 0;
}
bool weaves_cells(std::uint16_t, std::int64_t period) {
  return has_avx512() && period <= kCell && period % 2 == 0 && lines_of<std::uint16_t>(period) != 0;
}

void weave_cells(const WeaveCells<float>& weave) { weave_cells_with(weave); }
void weave_cells(const WeaveCells<std::uint16_t>& weave) { weave_cells_with(weave); }

bool weaves_sums(std::int64_t period) {
  return has_avx512() && period % 2 == 0 && period <= kCell && kSumsPasses[period / 2 - 1] != nullptr;
}

void weave_sums(const WeaveSums& weave) { kSumsPasses[weave.period / 2 - 1](weave); }

}  // namespace anchor_ext::passes

#else

namespace anchor_ext::passes {

bool weaves_cells(float, std::int64_t) { return false; }
bool weaves_cells(std::uint16_t, std::int64_t) { return false; }
void weave_cells(const WeaveCells<float>&) {}
void weave_cells(const WeaveCells<std::uint16_t>&) {}
bool weaves_sums(std::int64_t) { return false; }
void weave_sums(const WeaveSums&) {}

}  // namespace anchor_ext::passes

#endif
