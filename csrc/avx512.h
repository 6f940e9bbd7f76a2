// What the passes for machines with AVX-512 have in common: lines of memory, written whole, of what stays in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "passes.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(ANCHOR_EXT_NO_AVX512)
#define ANCHOR_EXT_HAS_AVX512
#if !defined(__clang__)  // wherever it inlines them, GCC 12 warns of vectors that its own header leaves undefined
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#define ANCHOR_EXT_AVX512 __attribute__((target("avx512f,avx512bw")))
#define ANCHOR_EXT_AVX512_INLINE inline __attribute__((always_inline, target("avx512f,avx512bw")))

namespace anchor_ext::passes {

inline constexpr int kLanes = 16;  // entries in a vector
inline constexpr int kMaxVectors = 9;

// How many vectors a period and its repetitions fill to the last lane, and of the few some more for a longer loop. 0
// for periods that would take more registers than there are, or seven vectors: those are rare.
constexpr int vectors_of(std::int64_t period) {
  const std::int64_t power = period & -period;  // of two, the largest that divides it
  const std::int64_t vectors = period / std::min<std::int64_t>(power, kLanes);
  if (vectors == 1 || vectors == 2) return 4;
  if (vectors == 3) return 6;
  return vectors == 5 || vectors == kMaxVectors ? static_cast<int>(vectors) : 0;
}

// i % period, for every period, and the first multiple of it that is no less than a vector.
struct Repetition {
  static constexpr int kLength = kLanes * kMaxVectors + static_cast<int>(kCell);
  std::uint8_t from[kCell + 1][kLength];
  std::uint8_t multiple[kCell + 1];
};
constexpr Repetition repetition() {
  Repetition result{};
  for (int period = 1; period <= kCell; ++period) {
    for (int i = 0; i < Repetition::kLength; ++i) result.from[period][i] = static_cast<std::uint8_t>(i % period);
    result.multiple[period] = static_cast<std::uint8_t>((kLanes + period - 1) / period * period);
  }
  return result;
}
inline constexpr Repetition kRepetition = repetition();

// Calls `function` with vectors_of(period), which it knows while it is compiled.
template <typename Function>
void with_vectors(std::int64_t period, const Function& function) {
  switch (vectors_of(period)) {
    case 4:
      return function(std::integral_constant<int, 4>{});
    case 5:
      return function(std::integral_constant<int, 5>{});
    case 6:
      return function(std::integral_constant<int, 6>{});
    case kMaxVectors:
      return function(std::integral_constant<int, kMaxVectors>{});
  }
}

inline constexpr int kDoubles = 8;  // in a vector; as many pairs of float32

inline constexpr std::uintptr_t kLine = 64;  // bytes of memory: a store that straddles two of them counts twice

// Of the pairs that fill all lines, those from `begin` to before `end`.
template <typename Lines, typename X, typename Number>
ANCHOR_EXT_AVX512_INLINE void put_some(const Lines& lines, const X* xs, Number* out, std::int64_t begin,
                                       std::int64_t end) {
  constexpr int kPairsOfLine = Lines::kPairsOfLine, kLanesOfPair = kLanes / kPairsOfLine;
#pragma GCC unroll 13
  for (int v = 0; v < Lines::kVectors; ++v) {
    const std::int64_t first = std::max<std::int64_t>(begin - kPairsOfLine * v, 0);
    const std::int64_t behind = std::min<std::int64_t>(end - kPairsOfLine * v, kPairsOfLine);
    if (behind <= 0) break;
    if (first >= behind) continue;
    const std::uint32_t some = (std::uint32_t{1} << kLanesOfPair * behind) - (std::uint32_t{1} << kLanesOfPair * first);
    _mm512_mask_storeu_epi32(out + 2 * kPairsOfLine * v, static_cast<__mmask16>(some), lines.line(xs, v));
  }
}

// A row, whose first line begins `before` pairs before it.
template <typename Lines, typename X, typename Number>
ANCHOR_EXT_AVX512_INLINE void put_row(const Lines& lines, const X* xs, Number* out, std::int64_t before,
                                      std::int64_t pairs) {
  constexpr int kTogether = Lines::kVectors * Lines::kPairsOfLine;
  out -= 2 * before;
  pairs += before;
  if (before > 0) {
    put_some(lines, xs, out, before, std::min<std::int64_t>(pairs, kTogether));
    pairs -= kTogether, xs += Lines::kStep, out += 2 * kTogether;
  }
  for (; pairs >= kTogether; pairs -= kTogether, xs += Lines::kStep, out += 2 * kTogether)
#pragma GCC unroll 13
    for (int v = 0; v < Lines::kVectors; ++v) _mm512_storeu_si512(out + 2 * Lines::kPairsOfLine * v, lines.line(xs, v));
  put_some(lines, xs, out, 0, pairs);
}

}  // namespace anchor_ext::passes

#endif
