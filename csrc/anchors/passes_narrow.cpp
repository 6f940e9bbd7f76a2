// For machines with AVX-512: sums rounded to 16 bits, many together.
#include <algorithm>
#include <cstdint>

#include "anchors/avx512.h"

#if defined(ANCHOR_EXT_HAS_AVX512)

namespace anchor_ext::passes {
namespace {

// Whether all are 0 or of a magnitude in 2**-60 .. 2**100. Sums of two of them are then 0 or between float32's smallest
// normal number and its largest: what is not 0 is no smaller than the last bit of one of them.
ANCHOR_EXT_AVX512_INLINE bool are_moderate(__m512d values) {
  constexpr std::int64_t kLeast = std::int64_t{1023 - 60} << 52, kMost = std::int64_t{1023 + 100} << 52;
  const __m512i magnitude = _mm512_and_si512(_mm512_castpd_si512(values), _mm512_set1_epi64(INT64_MAX));
  const __m512i above = _mm512_sub_epi64(magnitude, _mm512_set1_epi64(kLeast));
  const __mmask8 within = _mm512_cmple_epu64_mask(above, _mm512_set1_epi64(kMost - kLeast));
  return (within | _mm512_testn_epi64_mask(magnitude, magnitude)) == 0xff;
}

// Sums of moderate numbers -> float32, cut, with a last bit that is set where anything was: what rounds it to two bits
// less or fewer is then right for the float64, too. (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums:
// proved algorithms using rounding to odd", IEEE Transactions on Computers 57(4), 2008.) By integers, since conversions
// are slow: the upper half of a float64 has 20 bits of its mantissa, and float32's exponent with another bias. Of the
// two vectors' lanes it takes pairs in turn.
ANCHOR_EXT_AVX512_INLINE __m512i odd_of(__m512d first, __m512d second) {
  const __m512 values[] = {_mm512_castpd_ps(first), _mm512_castpd_ps(second)};
  const __m512i lower = _mm512_castps_si512(_mm512_shuffle_ps(values[0], values[1], 0b10001000));
  const __m512i upper = _mm512_castps_si512(_mm512_shuffle_ps(values[0], values[1], 0b11011101));
  const __m512i sticky = _mm512_or_si512(upper, _mm512_min_epu32(lower, _mm512_set1_epi32(1)));
  const __m512i biased = _mm512_slli_epi32(_mm512_sub_epi32(sticky, _mm512_set1_epi32((1023 - 127) << 20)), 3);
  const __m512i sign = _mm512_set1_epi32(INT32_MIN);
  const __mmask16 is_number = _mm512_test_epi32_mask(sticky, _mm512_set1_epi32(INT32_MAX));  // 0 has no exponent
  return _mm512_mask_ternarylogic_epi32(upper, is_number, biased, sign, 0b11100100);
}

// To nearest even, in the lower halves.
ANCHOR_EXT_AVX512_INLINE __m512i nearest(BFloat16, __m512i odd) {
  const __m512i last = _mm512_and_si512(_mm512_srli_epi32(odd, 16), _mm512_set1_epi32(1));
  return _mm512_srli_epi32(_mm512_add_epi32(odd, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff))), 16);
}
ANCHOR_EXT_AVX512_INLINE __m512i nearest(Float16, __m512i odd) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return _mm512_cvtepu16_epi32(_mm512_cvtps_ph(_mm512_castsi512_ps(odd), kNearest));
}

// Sums of moderate numbers, in whose lanes the two vectors have pairs in turn, see odd_of().
template <typename T>
ANCHOR_EXT_AVX512_INLINE void put_narrow(std::uint16_t* out, __m512d first, __m512d second) {
  const __m256i result = _mm512_cvtepi32_epi16(nearest(T{}, odd_of(first, second)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), result);
}

// Pairs of so many numbers in turn.
struct InTurn {
  __m512d first, second;
};
ANCHOR_EXT_AVX512_INLINE InTurn in_turn(const double* numbers) {
  const __m512d low = _mm512_loadu_pd(numbers), high = _mm512_loadu_pd(numbers + kDoubles);
  return {_mm512_permutex2var_pd(low, _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13), high),
          _mm512_permutex2var_pd(low, _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15), high)};
}

// Of eight cells, which are a whole number of vectors, the numbers, and which of the cells each belongs to.
struct EightCells {
  static constexpr int kCells = kDoubles;  // one vector of centres, of which lanes are chosen
  __m512d numbers[kCell + 1];
  __m512i cells[kCell + 1];

  ANCHOR_EXT_AVX512_INLINE void set(const double* of_cell, std::int64_t count) {
    double repeated[kCells * kCell + 2 * kFloats];
    for (std::int64_t i = 0; i < kCells * count + kFloats; i += count)
      for (std::int64_t j = 0; j < count; j += kDoubles)
        _mm512_storeu_pd(repeated + i + j, _mm512_loadu_pd(of_cell + j));
    double places[kFloats];
    for (int i = 0; i < kFloats; ++i) places[i] = i + 0.5;
    const InTurn place = in_turn(places);
    const __m512d by_count = _mm512_set1_pd(1.0 / static_cast<double>(count));
    for (std::int64_t v = 0; v < count; v += 2) {
      const InTurn some = in_turn(repeated + kDoubles * v);
      const __m512d before = _mm512_set1_pd(static_cast<double>(kDoubles * v));
      numbers[v] = some.first, numbers[v + 1] = some.second;
      cells[v] = cut(_mm512_mul_pd(_mm512_add_pd(place.first, before), by_count));
      cells[v + 1] = cut(_mm512_mul_pd(_mm512_add_pd(place.second, before), by_count));
    }
  }
  static ANCHOR_EXT_AVX512_INLINE __m512i cut(__m512d value) {
    return _mm512_cvtepi32_epi64(_mm512_cvttpd_epi32(value));
  }
};

template <typename T>
ANCHOR_EXT_AVX512 void narrow_sums_of(std::uint16_t* out, const double* numbers, std::int64_t count,
                                      const double* centres, std::int64_t cells) {
  bool moderate = true;
  for (std::int64_t j = 0; j < count; j += kDoubles) {
    const auto some = static_cast<__mmask8>((1u << std::min<std::int64_t>(count - j, kDoubles)) - 1);
    moderate &= are_moderate(_mm512_maskz_loadu_pd(some, numbers + j));
  }
  constexpr std::int64_t kFew = 32;  // cells for which eight of them are not worth the trouble
  EightCells eight;
  if (cells > kFew) eight.set(numbers, count);
  const InTurn of_cell[] = {in_turn(numbers), in_turn(numbers + kFloats)};

  constexpr std::int64_t kCells = EightCells::kCells;
  for (std::int64_t cell = 0; cell < cells; cell += kCells, out += kCells * count, centres += kCells) {
    const std::int64_t some = std::min(cells - cell, kCells);
    const __m512d of_cells = _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << some) - 1), centres);
    if (!(moderate && are_moderate(of_cells))) {
      for (std::int64_t i = 0; i < some; ++i)
        for (std::int64_t j = 0; j < count; ++j) out[i * count + j] = round_to<T>(numbers[j] + centres[i]).bits;
    } else if (cells > kFew) {
      for (std::int64_t v = 0; kDoubles * v < some * count; v += 2)
        put_narrow<T>(out + kDoubles * v,
                      _mm512_add_pd(eight.numbers[v], _mm512_permutexvar_pd(eight.cells[v], of_cells)),
                      _mm512_add_pd(eight.numbers[v + 1], _mm512_permutexvar_pd(eight.cells[v + 1], of_cells)));
    } else {
      for (std::int64_t i = 0; i < some; ++i) {
        const __m512d centre = _mm512_set1_pd(centres[i]);
        for (std::int64_t j = 0; j < count; j += kFloats) {
          const InTurn& of = of_cell[j / kFloats];
          put_narrow<T>(out + i * count + j, _mm512_add_pd(of.first, centre), _mm512_add_pd(of.second, centre));
        }
      }
    }
  }
}

}  // namespace

void narrow_sums(Float16, std::uint16_t* out, const double* numbers, std::int64_t count, const double* centres,
                 std::int64_t cells) {
  narrow_sums_of<Float16>(out, numbers, count, centres, cells);
}
void narrow_sums(BFloat16, std::uint16_t* out, const double* numbers, std::int64_t count, const double* centres,
                 std::int64_t cells) {
  narrow_sums_of<BFloat16>(out, numbers, count, centres, cells);
}

}  // namespace anchor_ext::passes

#else

namespace anchor_ext::passes {

void narrow_sums(Float16, std::uint16_t*, const double*, std::int64_t, const double*, std::int64_t) {}
void narrow_sums(BFloat16, std::uint16_t*, const double*, std::int64_t, const double*, std::int64_t) {}

}  // namespace anchor_ext::passes

#endif
