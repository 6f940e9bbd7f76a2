// For machines with AVX-512: the passes that most anchors end in, where what a row repeats stays in registers, and sums
// rounded to 16 bits.
#include <algorithm>
#include <array>
#include <utility>

#include "passes.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(ANCHOR_EXT_NO_AVX512)
#if !defined(__clang__)  // GCC 12 warns of vectors that its own header leaves undefined
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#define ANCHOR_EXT_AVX512 __attribute__((target("avx512f")))
#define ANCHOR_EXT_AVX512_INLINE inline __attribute__((always_inline, target("avx512f")))

namespace anchor_ext::passes {
namespace {

constexpr int kLanes = 16;  // entries in a vector
constexpr int kMaxVectors = 9;

// How many vectors a period and its repetitions fill to the last lane, and of the few some more for a longer loop. 0
// for periods that would take more registers than there are, or seven vectors: those are rare.
constexpr int vectors_of(std::int64_t period) {
  const std::int64_t power = period & -period;  // of two, the largest that divides it
  const std::int64_t vectors = period / std::min<std::int64_t>(power, kLanes);
  if (vectors == 1 || vectors == 2) return 4;
  if (vectors == 3) return 6;
  return vectors == 5 || vectors == kMaxVectors ? static_cast<int>(vectors) : 0;
}

// i % period, for every period.
struct Repetition {
  std::uint8_t from[kCell + 1][kLanes * kMaxVectors];
};
constexpr Repetition repetition() {
  Repetition result{};
  for (int period = 1; period <= kCell; ++period)
    for (int i = 0; i < kLanes * kMaxVectors; ++i) result.from[period][i] = static_cast<std::uint8_t>(i % period);
  return result;
}
constexpr Repetition kRepetition = repetition();

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
ANCHOR_EXT_AVX512_INLINE void put(std::uint16_t* out, const Order&, __m512i x, __m512i y) {
  _mm512_storeu_si512(out, _mm512_or_si512(x, y));
}

// The first `pairs` of less than a vector.
ANCHOR_EXT_AVX512_INLINE void put(float* out, const Order& order, __m512i x, __m512i y, std::int64_t pairs) {
  const std::uint32_t mask = (std::uint32_t{1} << 2 * pairs) - 1;
  _mm512_mask_storeu_epi32(out, static_cast<__mmask16>(mask), _mm512_permutex2var_epi32(x, order.first, y));
  const __m512i second = _mm512_permutex2var_epi32(x, order.second, y);
  _mm512_mask_storeu_epi32(out + kLanes, static_cast<__mmask16>(mask >> kLanes), second);
}
ANCHOR_EXT_AVX512_INLINE void put(std::uint16_t* out, const Order&, __m512i x, __m512i y, std::int64_t pairs) {
  _mm512_mask_storeu_epi32(out, static_cast<__mmask16>((1u << pairs) - 1), _mm512_or_si512(x, y));
}

// float64 -> float32, cut, with a last bit that is set where anything was: what rounds it to two bits less or fewer is
// then right for the float64, too. (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved
// algorithms using rounding to odd", IEEE Transactions on Computers 57(4), 2008.)
ANCHOR_EXT_AVX512_INLINE __m512i round_to_odd(__m512d first, __m512d second) {
  constexpr int kCut = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
  const __m256 cut[] = {_mm512_cvt_roundpd_ps(first, kCut), _mm512_cvt_roundpd_ps(second, kCut)};
  const __mmask8 inexact[] = {_mm512_cmp_pd_mask(_mm512_cvtps_pd(cut[0]), first, _CMP_NEQ_OQ),
                              _mm512_cmp_pd_mask(_mm512_cvtps_pd(cut[1]), second, _CMP_NEQ_OQ)};
  const __m512i all =
      _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_castps_si256(cut[0])), _mm256_castps_si256(cut[1]), 1);
  return _mm512_mask_or_epi32(all, _mm512_kunpackb(inexact[1], inexact[0]), all, _mm512_set1_epi32(1));
}

// `rounded`, and where there is no number what round_to_16() makes of that.
ANCHOR_EXT_AVX512_INLINE __m512i or_none(__m512i odd, __m512i rounded, int none) {
  const __m512 number = _mm512_castsi512_ps(odd);
  return _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(number, number, _CMP_UNORD_Q), _mm512_set1_epi32(none));
}

// float64 -> entries of 16 bits, to nearest even.
ANCHOR_EXT_AVX512_INLINE __m512i entries(BFloat16, __m512d first, __m512d second, bool high) {
  const __m512i odd = round_to_odd(first, second);
  const __m512i last = _mm512_and_si512(_mm512_srli_epi32(odd, 16), _mm512_set1_epi32(1));
  const __m512i nearest = _mm512_add_epi32(odd, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
  const __m512i rounded = or_none(odd, nearest, 0x7fc00000);
  return high ? _mm512_and_si512(rounded, _mm512_set1_epi32(-0x10000)) : _mm512_srli_epi32(rounded, 16);
}
ANCHOR_EXT_AVX512_INLINE __m512i entries(Float16, __m512d first, __m512d second, bool high) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m512i odd = round_to_odd(first, second);
  const __m512i nearest = _mm512_cvtepu16_epi32(_mm512_cvtps_ph(_mm512_castsi512_ps(odd), kNearest));
  const __m512i rounded = or_none(odd, nearest, 0x7e00);
  return high ? _mm512_slli_epi32(rounded, 16) : rounded;
}

template <typename T>
ANCHOR_EXT_AVX512 void sums_of_16_bits(std::uint32_t* out, const double* numbers, std::int64_t count,
                                       const double* centres, std::int64_t cells, bool high) {
  constexpr int kHalf = kLanes / 2;
  if (count == 1) {
    const __m512d number = _mm512_set1_pd(*numbers);
    for (std::int64_t i = 0; i < cells; i += kLanes) {
      const __m512d first = _mm512_add_pd(number, _mm512_loadu_pd(centres + i));
      const __m512d second = _mm512_add_pd(number, _mm512_loadu_pd(centres + i + kHalf));
      _mm512_storeu_si512(out + i, entries(T{}, first, second, high));
    }
    return;
  }
  for (std::int64_t cell = 0; cell < cells; ++cell, out += count) {
    const __m512d centre = _mm512_set1_pd(centres[cell]);
    for (std::int64_t j = 0; j < count; j += kLanes) {
      const __m512d first = _mm512_add_pd(_mm512_loadu_pd(numbers + j), centre);
      const __m512d second = _mm512_add_pd(_mm512_loadu_pd(numbers + j + kHalf), centre);
      _mm512_storeu_si512(out + j, entries(T{}, first, second, high));
    }
  }
}

template <int kVectors, typename T>
ANCHOR_EXT_AVX512 __attribute__((noinline)) void weave_vectors(const WeaveCells<T>& weave) {
  constexpr std::int64_t kPeriod = kLanes * kVectors;
  constexpr auto kTile = static_cast<std::int64_t>(kTileBytes / sizeof(Entry<T>)) / kPeriod * kPeriod;
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

      T* out = weave.out + 2 * (row * weave.pairs + left);
      const Entry<T>* xs = weave.xs + left;
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

// Float64 in a vector, and pairs of float32.
constexpr int kPairs = 8;

// Of cells of so many numbers, how many vectors they fill to the last lane, and of the few some more for a
// longer loop. Twice as many stay in registers.
constexpr int sum_vectors(int period) {
  int vectors = period / std::min(period & -period, kPairs);
  while (vectors < 4) vectors *= 2;
  return vectors;
}
constexpr int kMaxSumVectors = 13;

// Of number `first` of cells and those behind it, the sums with the centres of the cells that they belong to.
template <int kPeriod>
ANCHOR_EXT_AVX512_INLINE __m256 sums_of_cells(__m512d numbers, const double* centres, int first) {
  int cell = first / kPeriod;
  if constexpr (kPeriod < kPairs) {  // of many cells
    const int begin = first % kPeriod;
    const __m512i cells =
        _mm512_setr_epi64(begin / kPeriod, (begin + 1) / kPeriod, (begin + 2) / kPeriod, (begin + 3) / kPeriod,
                          (begin + 4) / kPeriod, (begin + 5) / kPeriod, (begin + 6) / kPeriod, (begin + 7) / kPeriod);
    return _mm512_cvtpd_ps(_mm512_add_pd(numbers, _mm512_permutexvar_pd(cells, _mm512_loadu_pd(centres + cell))));
  }
  __m512d of_cells = _mm512_set1_pd(centres[cell]);
  if (++cell * kPeriod < first + kPairs) {  // of two
    const auto behind = static_cast<__mmask8>(0xff << (cell * kPeriod - first));
    of_cells = _mm512_mask_broadcastsd_pd(of_cells, behind, _mm_load_sd(centres + cell));
  }
  // The same sum twice, the one where machines add and round, the other where they multiply.
  const bool odd = first / kPairs % 2 == 1;
  return _mm512_cvtpd_ps(odd ? _mm512_fmadd_pd(numbers, _mm512_set1_pd(1.0), of_cells)
                             : _mm512_add_pd(numbers, of_cells));
}

// A cell's numbers and their repetitions, up to as many as the pass works with.
template <int kPeriod>
ANCHOR_EXT_AVX512_INLINE void repeat(const double* numbers, double* to) {
  for (int cell = 0; cell < kPairs * sum_vectors(kPeriod); cell += kPeriod)
    for (int i = 0; i < kPeriod; i += kPairs) _mm512_storeu_pd(to + cell + i, _mm512_loadu_pd(numbers + i));
}

// How many cells before a row the lines begin that its numbers are written in, where the row begins so many pairs
// behind a line of memory: a store that straddles two of them counts twice. None where no cell begins with a line.
template <int kPeriod>
constexpr int cells_before(int pairs_behind) {
  static_assert(kPairs <= kBefore);
  for (int cells = 0; cells < kPairs; ++cells)
    if (cells * kPeriod % kPairs == pairs_behind) return cells;
  return 0;
}

// What stays in registers.
template <int kPeriod>
struct Sums {
  static constexpr int kVectors = sum_vectors(kPeriod);
  __m512d numbers[kVectors];
  __m512i ys[kVectors];  // each twice
  __m512i twice;
  __mmask16 of_x;
};

template <int kPeriod>
ANCHOR_EXT_AVX512_INLINE __m512i pairs_at(const Sums<kPeriod>& sums, const double* xs, int v) {
  const __m512 x = _mm512_castps256_ps512(sums_of_cells<kPeriod>(sums.numbers[v], xs, kPairs * v));
  return _mm512_mask_permutexvar_epi32(sums.ys[v], sums.of_x, sums.twice, _mm512_castps_si512(x));
}

// Of pairs that fill all vectors, those from `begin` to before `end`.
template <int kPeriod>
ANCHOR_EXT_AVX512_INLINE void put_some(const Sums<kPeriod>& sums, const double* xs, float* out, std::int64_t begin,
                                       std::int64_t end) {
#pragma GCC unroll 13
  for (int v = 0; v < sums.kVectors; ++v) {
    const std::int64_t first = std::max<std::int64_t>(begin - kPairs * v, 0);
    const std::int64_t behind = std::min<std::int64_t>(end - kPairs * v, kPairs);
    if (behind <= 0) break;
    if (first >= behind) continue;
    const std::uint32_t some = (std::uint32_t{1} << 2 * behind) - (std::uint32_t{1} << 2 * first);
    _mm512_mask_storeu_epi32(out + 2 * kPairs * v, static_cast<__mmask16>(some), pairs_at(sums, xs, v));
  }
}

template <int kPeriod>
ANCHOR_EXT_AVX512 __attribute__((noinline)) void weave_sums_of(const WeaveSums& weave) {
  constexpr int kVectors = sum_vectors(kPeriod), kTogether = kVectors * kPairs;
  alignas(64) double x_numbers[kTogether + kPairs], y_numbers[kTogether + kPairs];
  repeat<kPeriod>(weave.x_numbers, x_numbers);
  repeat<kPeriod>(weave.y_numbers, y_numbers);
  Sums<kPeriod> sums;
  sums.twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  sums.of_x = weave.swapped ? 0xaaaa : 0x5555;
#pragma GCC unroll 13
  for (int v = 0; v < kVectors; ++v) sums.numbers[v] = _mm512_load_pd(x_numbers + kPairs * v);
  for (std::int64_t row = 0; row < weave.rows; ++row) {
#pragma GCC unroll 13
    for (int v = 0; v < kVectors; ++v) {
      const __m512d of_row = _mm512_add_pd(_mm512_load_pd(y_numbers + kPairs * v), _mm512_set1_pd(weave.ys[row]));
      const __m512 y = _mm512_castps256_ps512(_mm512_cvtpd_ps(of_row));
      sums.ys[v] = _mm512_permutexvar_epi32(sums.twice, _mm512_castps_si512(y));
    }
    float* const begin = weave.out + 2 * row * weave.pairs;
    const auto behind_line = static_cast<int>(reinterpret_cast<std::uintptr_t>(begin) / (2 * sizeof(float)) % kPairs);
    const int before = cells_before<kPeriod>(behind_line);
    float* out = begin - 2 * before * kPeriod;
    const double* xs = weave.xs - before;
    std::int64_t pairs = weave.pairs + before * kPeriod;
    if (before > 0) {
      put_some(sums, xs, out, before * kPeriod, std::min<std::int64_t>(pairs, kTogether));
      pairs -= kTogether, xs += kTogether / kPeriod, out += 2 * kTogether;
    }
    for (; pairs >= kTogether; pairs -= kTogether, xs += kTogether / kPeriod, out += 2 * kTogether)
#pragma GCC unroll 13
      for (int v = 0; v < kVectors; ++v) _mm512_storeu_si512(out + 2 * kPairs * v, pairs_at(sums, xs, v));
    put_some(sums, xs, out, 0, pairs);
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

template <typename T>
void weave_any_cells(const WeaveCells<T>& weave) {
  switch (vectors_of(weave.period)) {
    case 4:
      return weave_vectors<4>(weave);
    case 5:
      return weave_vectors<5>(weave);
    case 6:
      return weave_vectors<6>(weave);
    case kMaxVectors:
      return weave_vectors<kMaxVectors>(weave);
  }
}

}  // namespace

bool has_avx512() {
  static const bool has = __builtin_cpu_supports("avx512f") != 0;
  return has;
}

void sums_avx512(Float16, std::uint32_t* out, const double* numbers, std::int64_t count, const double* centres,
                 std::int64_t cells, bool second) {
  sums_of_16_bits<Float16>(out, numbers, count, centres, cells, second);
}
void sums_avx512(BFloat16, std::uint32_t* out, const double* numbers, std::int64_t count, const double* centres,
                 std::int64_t cells, bool second) {
  sums_of_16_bits<BFloat16>(out, numbers, count, centres, cells, second);
}

bool weaves_cells(std::int64_t period) { return has_avx512() && period <= kCell && vectors_of(period) != 0; }

bool weaves_sums(std::int64_t period) {
  return has_avx512() && period % 2 == 0 && period <= kCell && kSumsPasses[period / 2 - 1] != nullptr;
}

void weave_sums(const WeaveSums& weave) { kSumsPasses[weave.period / 2 - 1](weave); }

void weave_cells(const WeaveCells<float>& weave) { weave_any_cells(weave); }
void weave_cells(const WeaveCells<std::uint16_t>& weave) { weave_any_cells(weave); }

}  // namespace anchor_ext::passes

#else

namespace anchor_ext::passes {

bool has_avx512() { return false; }
void sums_avx512(Float16, std::uint32_t*, const double*, std::int64_t, const double*, std::int64_t, bool) {}
void sums_avx512(BFloat16, std::uint32_t*, const double*, std::int64_t, const double*, std::int64_t, bool) {}
bool weaves_sums(std::int64_t) { return false; }
void weave_sums(const WeaveSums&) {}
bool weaves_cells(std::int64_t) { return false; }
void weave_cells(const WeaveCells<float>&) {}
void weave_cells(const WeaveCells<std::uint16_t>&) {}

}  // namespace anchor_ext::passes

#endif
