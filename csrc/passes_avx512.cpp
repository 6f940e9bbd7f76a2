// For machines with AVX-512: the passes that anchors in float32 end in, where what a row repeats stays in registers.
#include <array>
#include <utility>

#include "avx512.h"

#if defined(ANCHOR_EXT_HAS_AVX512)

namespace anchor_ext::passes {
namespace {

// Where pairs of two vectors lie: in the first of the two that are written, and in the second.
struct Order {
  __m512i first, second;
};

ANCHOR_EXT_AVX512_INLINE Order order_of(bool swapped) {
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i other = _mm512_set1_epi32(swapped ? kLanes : 0);
  return {_mm512_xor_si512(first, other), _mm512_xor_si512(_mm512_add_epi32(first, _mm512_set1_epi32(8)), other)};
}

ANCHOR_EXT_AVX512_INLINE void put(float* out, const Order& order, __m512i x, __m512i y) {
  _mm512_storeu_si512(out, _mm512_permutex2var_epi32(x, order.first, y));
  _mm512_storeu_si512(out + kLanes, _mm512_permutex2var_epi32(x, order.second, y));
}

// The first `pairs` of less than a vector.
ANCHOR_EXT_AVX512_INLINE void put(float* out, const Order& order, __m512i x, __m512i y, std::int64_t pairs) {
  const std::uint32_t mask = (std::uint32_t{1} << 2 * pairs) - 1;
  _mm512_mask_storeu_epi32(out, static_cast<__mmask16>(mask), _mm512_permutex2var_epi32(x, order.first, y));
  const __m512i second = _mm512_permutex2var_epi32(x, order.second, y);
  _mm512_mask_storeu_epi32(out + kLanes, static_cast<__mmask16>(mask >> kLanes), second);
}

template <int kVectors>
ANCHOR_EXT_AVX512 __attribute__((noinline)) void weave_vectors(const WeaveCells& weave) {
  constexpr std::int64_t kPeriod = kLanes * kVectors;
  constexpr auto kTile = static_cast<std::int64_t>(kTileBytes / sizeof(float)) / kPeriod * kPeriod;
  const Order order = order_of(weave.swapped);
  __m512i from[kVectors], ys[kVectors];
#pragma GCC unroll 9
  for (int v = 0; v < kVectors; ++v) {
    const std::uint8_t* const lanes = kRepetition.from[weave.period] + kLanes * v;
    from[v] = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(lanes)));
  }
  for (std::int64_t left = 0; left < weave.pairs; left += kTile) {
    const std::int64_t right = std::min(left + kTile, weave.pairs);
    for (std::int64_t row = 0; row < weave.rows; ++row) {
      const __m512i first = _mm512_loadu_si512(weave.ys + kCell * row);
      const __m512i second = _mm512_loadu_si512(weave.ys + kCell * row + kLanes);
#pragma GCC unroll 9
      for (int v = 0; v < kVectors; ++v) ys[v] = _mm512_permutex2var_epi32(first, from[v], second);

      float* out = weave.out + 2 * (row * weave.pairs + left);
      const float* xs = weave.xs + left;
      std::int64_t pairs = right - left;
      for (; pairs >= kPeriod; pairs -= kPeriod, xs += kPeriod, out += 2 * kPeriod)
#pragma GCC unroll 9
        for (int v = 0; v < kVectors; ++v) put(out + 2 * kLanes * v, order, _mm512_loadu_si512(xs + kLanes * v), ys[v]);
#pragma GCC unroll 9
      for (int v = 0; v < kVectors; ++v) {
        if (pairs <= 0) break;
        const __m512i some = _mm512_loadu_si512(xs + kLanes * v);
        if (pairs >= kLanes)
          put(out + 2 * kLanes * v, order, some, ys[v]);
        else
          put(out + 2 * kLanes * v, order, some, ys[v], pairs);
        pairs -= kLanes;
      }
    }
  }
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
  static constexpr int kVectors = sum_vectors(kPeriod), kPairsOfLine = kDoubles;
  static constexpr int kStep = kVectors * kDoubles / kPeriod;  // of xs, for all vectors
  __m512d numbers[kVectors];
  __m512i ys[kVectors];  // each twice
  __m512i twice;
  __mmask16 of_x;

  ANCHOR_EXT_AVX512_INLINE __m512i line(const double* xs, int v) const {
    const __m512 x = _mm512_castps256_ps512(sums_of_cells<kPeriod>(numbers[v], xs, kDoubles * v));
    return _mm512_mask_permutexvar_epi32(ys[v], of_x, twice, _mm512_castps_si512(x));
  }
};

// How many cells before a row the lines begin that its numbers are written in, where the row begins so many pairs
// behind a line of memory. None where no cell begins with a line.
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
  static_assert(most_before(kPeriod) <= kBefore && most_before(kPeriod) * kPeriod < kTogether, "see put_row()");
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

bool weaves_cells(std::int64_t period) { return has_avx512() && period <= kCell && vectors_of(period) != 0; }

void weave_cells(const WeaveCells& weave) {
  with_vectors(weave.period, [&](auto vectors) { weave_vectors<vectors>(weave); });
}

bool weaves_sums(std::int64_t period) {
  return has_avx512() && period % 2 == 0 && period <= kCell && kSumsPasses[period / 2 - 1] != nullptr;
}

void weave_sums(const WeaveSums& weave) { kSumsPasses[weave.period / 2 - 1](weave); }

}  // namespace anchor_ext::passes

#else

namespace anchor_ext::passes {

bool weaves_cells(std::int64_t) { return false; }
void weave_cells(const WeaveCells&) {}
bool weaves_sums(std::int64_t) { return false; }
void weave_sums(const WeaveSums&) {}

}  // namespace anchor_ext::passes

#endif
