#include "anchors/passes.h"

#include <algorithm>
#include <cstring>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define ANCHOR_EXT_INLINE inline __attribute__((always_inline))  // templates cannot be cloned, only what calls them

namespace anchor_ext::passes {
namespace {

// Rounded up to whole vectors, in a way that the compiler knows the result by, and writes no second loop for a rest.
ANCHOR_EXT_INLINE std::uint64_t whole(std::int64_t count, std::uint64_t vector) {
  return (static_cast<std::uint64_t>(count) + vector - 1) / vector * vector;
}

// Of cells whose length the compiler knows, and keeps the numbers in registers.
template <int kCount, typename T>
ANCHOR_EXT_INLINE void sums_of_cells(Entry<T>* __restrict out, const double* __restrict numbers, std::int64_t count,
                                     const double* __restrict centres, std::int64_t cells, bool second) {
  for (std::int64_t cell = 0; cell < cells; ++cell, out += count) {
    const double centre = centres[cell];
    for (int j = 0; j < kCount; ++j) out[j] = entry<T>(numbers[j] + centre, second);
  }
}

template <typename T>
ANCHOR_EXT_INLINE void sums_loop(Entry<T>* __restrict out, const double* __restrict numbers, std::int64_t count,
                                 const double* __restrict centres, std::int64_t cells, bool second) {
  // Float64 in the widest vector, or in two: of one, rounded to 16 bits, GCC makes halves.
  constexpr int kStep = sizeof(T) == 2 ? 16 : 8;
  if (count == 1) {
    const double number = *numbers;
    const std::uint64_t n = whole(cells, kStep);
    for (std::uint64_t i = 0; i < n; ++i) out[i] = entry<T>(number + centres[i], second);
    return;
  }
  const std::uint64_t n = whole(count, kStep);
  if (n == 8) return sums_of_cells<8, T>(out, numbers, count, centres, cells, second);
  if (n == 16) return sums_of_cells<16, T>(out, numbers, count, centres, cells, second);
  if (n == 24) return sums_of_cells<24, T>(out, numbers, count, centres, cells, second);
  if (n == 32) return sums_of_cells<32, T>(out, numbers, count, centres, cells, second);
  for (std::int64_t cell = 0; cell < cells; ++cell, out += count) {
    const double centre = centres[cell];
    for (std::uint64_t j = 0; j < n; ++j) out[j] = entry<T>(numbers[j] + centre, second);
  }
}

using TwoOf16Bits __attribute__((may_alias, aligned(2))) = std::uint32_t;

template <bool swapped>
ANCHOR_EXT_INLINE void put(std::uint16_t* out, std::int64_t i, std::uint32_t x, std::uint32_t y) {
  reinterpret_cast<TwoOf16Bits*>(out)[i] = x | y;
}
template <bool swapped, typename T>
ANCHOR_EXT_INLINE void put(T* out, std::int64_t i, T x, T y) {
  out[2 * i] = swapped ? y : x;
  out[2 * i + 1] = swapped ? x : y;
}

// The compiler makes vectors of the first loop and need not of the second, which a length of whole vectors leaves out.
template <bool swapped, typename T>
ANCHOR_EXT_INLINE void weave_row(T* __restrict out, const Entry<T>* __restrict xs, const Entry<T>* __restrict ys,
                                 std::int64_t pairs, std::int64_t period, bool spills) {
  for (; pairs > 0; pairs -= period, xs += period, out += 2 * period) {
    const std::int64_t n = std::min(pairs, period);
    const std::uint64_t vectors = whole(spills ? n : n + 1 - kVector<T>, kVector<T>);
    for (std::uint64_t i = 0; i < vectors; ++i) put<swapped>(out, i, xs[i], ys[i]);
    for (std::int64_t i = static_cast<std::int64_t>(vectors); i < n; ++i) put<swapped>(out, i, xs[i], ys[i]);
  }
}

template <bool swapped, typename T>
ANCHOR_EXT_INLINE void weave_one_y(T* __restrict out, const Entry<T>* __restrict xs, Entry<T> y, std::int64_t pairs) {
  for (std::int64_t i = 0; i < pairs; ++i) put<swapped>(out, i, xs[i], y);
}

template <bool swapped, typename T>
ANCHOR_EXT_INLINE void weave_rows(const Weave<T>& weave) {
  constexpr auto kTile = static_cast<std::int64_t>(kTileBytes / sizeof(Entry<T>));
  const std::int64_t pairs = weave.pairs, period = weave.period;
  const std::int64_t tile = pairs <= kTile ? pairs : kTile / period * period;
  for (std::int64_t left = 0; left < pairs; left += tile) {
    const std::int64_t some = std::min(tile, pairs - left);
    const bool spills = weave.spills && some == pairs;
    T* out = weave.out + 2 * left;
    const Entry<T>* ys = weave.ys;
    for (std::int64_t row = 0; row < weave.rows; ++row, out += 2 * pairs, ys += period) {
      if (period == 1)
        weave_one_y<swapped>(out, weave.xs + left, *ys, some);
      else
        weave_row<swapped>(out, weave.xs + left, ys, some, period, spills);
    }
  }
}

template <bool either, typename T>
ANCHOR_EXT_INLINE void combine_loop(T* __restrict out, const T* __restrict xs, const T* __restrict ys,
                                    std::int64_t count, std::int64_t period) {
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

}  // namespace

#define ANCHOR_EXT_SUMS(T)                                                                                        \
  ANCHOR_EXT_CLONES void sums(T, Entry<T>* out, const double* numbers, std::int64_t count, const double* centres, \
                              std::int64_t cells, bool second) {                                                  \
    sums_loop<T>(out, numbers, count, centres, cells, second);                                                    \
  }
ANCHOR_EXT_SUMS(double)
ANCHOR_EXT_SUMS(float)
ANCHOR_EXT_SUMS(Float16)
ANCHOR_EXT_SUMS(BFloat16)

#define ANCHOR_EXT_WEAVE(T)                                                    \
  ANCHOR_EXT_CLONES void weave(const Weave<T>& weave) {                        \
    return weave.swapped ? weave_rows<true>(weave) : weave_rows<false>(weave); \
  }
ANCHOR_EXT_WEAVE(double)
ANCHOR_EXT_WEAVE(float)
ANCHOR_EXT_WEAVE(std::uint16_t)

#define ANCHOR_EXT_REPEAT(T)                                                       \
  ANCHOR_EXT_CLONES void repeat(T* __restrict out, T number, std::int64_t count) { \
    for (std::int64_t i = 0; i < count; ++i) out[i] = number;                      \
  }
ANCHOR_EXT_REPEAT(double)
ANCHOR_EXT_REPEAT(float)
ANCHOR_EXT_REPEAT(std::uint16_t)

ANCHOR_EXT_CLONES void both(bool* out, const bool* xs, const bool* ys, std::int64_t count, std::int64_t period) {
  combine_loop<false>(out, xs, ys, count, period);
}

#define ANCHOR_EXT_EITHER(T)                                                                                 \
  ANCHOR_EXT_CLONES void either(T* out, const T* xs, const T* ys, std::int64_t count, std::int64_t period) { \
    combine_loop<true>(out, xs, ys, count, period);                                                          \
  }
ANCHOR_EXT_EITHER(std::uint64_t)
ANCHOR_EXT_EITHER(std::uint32_t)
ANCHOR_EXT_EITHER(std::uint16_t)

#if defined(__SSE2__)
void stream(void* out, const void* in, std::int64_t bytes) {
  constexpr std::int64_t kLine = 64;  // written as a whole: the processor joins its four stores to one
  auto* to = static_cast<unsigned char*>(out);
  const auto* from = static_cast<const unsigned char*>(in);
  const auto head = static_cast<std::int64_t>(-reinterpret_cast<std::uintptr_t>(to) % kLine);
  if (head >= bytes) {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
    return;
  }
  std::memcpy(to, from, static_cast<std::size_t>(head));
  std::int64_t i = head;
  for (; i + kLine <= bytes; i += kLine) {
    const auto* const source = reinterpret_cast<const __m128i*>(from + i);
    auto* const line = reinterpret_cast<__m128i*>(to + i);
    for (int k = 0; k < 4; ++k) _mm_stream_si128(line + k, _mm_loadu_si128(source + k));
  }
  std::memcpy(to + i, from + i, static_cast<std::size_t>(bytes - i));
}
void streamed() { _mm_sfence(); }
#else
void stream(void* out, const void* in, std::int64_t bytes) { std::memcpy(out, in, static_cast<std::size_t>(bytes)); }
void streamed() {}
#endif

}  // namespace anchor_ext::passes
