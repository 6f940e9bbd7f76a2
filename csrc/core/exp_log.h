// exp and log of any number, by sums and products alone: of a vector's lanes as of one number, on a device as on the
// CPU they give the same bits.
//
// Of float32, exp is within 0.95 and log within 0.501 units in the last place, so that each differs by at most one from
// what torch gives, which is within 1. Of float64 they are within 2 units.
//
// exp: x = n log(2) + r with an integer n, of which 0x1.62ep-1 * n is exact; exp(r) is Taylor's polynomial.
#pragma once

#include <cstdint>

#include "core/rounding.h"

namespace anchor_ext {

template <int n>
inline constexpr double kFactorial = n * kFactorial<n - 1>;
template <>
inline constexpr double kFactorial<0> = 1.0;

// Polynomials as recursions, which compilers unroll before they make vectors. The sum of r**(i - k) / i! for k <= i <=
// kDegree; and of z**(i - k) / (2 i + 1).
template <int kDegree, int k, typename C>
ANCHOR_EXT_HD C exp_series(C r) {
  constexpr auto kFactor = static_cast<C>(1.0 / kFactorial<k>);
  if constexpr (k == kDegree)
    return kFactor;
  else
    return exp_series<kDegree, k + 1>(r) * r + kFactor;
}
template <int kDegree, int k>
ANCHOR_EXT_HD double atanh_series(double z) {
  constexpr double kFactor = 1.0 / (2 * k + 1);
  if constexpr (k == kDegree)
    return kFactor;
  else
    return atanh_series<kDegree, k + 1>(z) * z + kFactor;
}

// NaN stays NaN.
template <typename C>
ANCHOR_EXT_HD C limited(C value, C least, C most) {
  value = value < least ? least : value;
  return value > most ? most : value;
}

// Of |x| <= 104. Within 0.95 units in the last place: half a one by the last addition, a quarter by the one before,
// where the result is below 1, and 0.1 by the series, of degree 7. Its terms are added in pairs, for which a processor
// waits less.
ANCHOR_EXT_HD float exp_within(float x) {
  const float shifted = x * 0x1.715476p+0f + 0x1.8p+23f, n = shifted - 0x1.8p+23f;
  const float exact = x - n * 0x1.62ep-1f, rest = n * 0x1.0bfbe8p-15f;
  const float r = exact - rest, lost = (exact - r) - rest, square = r * r;
  const float low = exp_series<3, 2>(r), middle = exp_series<5, 4>(r), high = exp_series<7, 6>(r);
  const float p = r + (square * (low + square * (middle + square * high)) + lost);
  // n is in the last bits of `shifted`; by two factors, since 2**n itself may overflow or underflow.
  const std::uint32_t whole = bits_of(shifted), half = whole >> 1;
  return (p + 1.0f) * float_of((half + 127) << 23) * float_of((whole - half + 127) << 23);
}

// Beyond 104 the result is 0 or infinite, as it is of 104. By the bits: of what depends on a comparison of floats
// compilers make two of everything that follows.
ANCHOR_EXT_HD float exp_of(float x) {
  constexpr std::uint32_t kMost = 0x42d00000, kInfinite = 0x7f800000;
  const std::uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffff;
  const std::uint32_t limited = magnitude < kMost || magnitude > kInfinite ? magnitude : kMost;
  return exp_within(float_of(limited | (bits & 0x80000000)));
}

// Of x <= 0; of a negative NaN anything.
ANCHOR_EXT_HD float exp_of_negative(float x) {
  constexpr std::uint32_t kMost = 0xc2d00000;  // -104
  const std::uint32_t bits = bits_of(x);
  return exp_within(float_of(bits < kMost ? bits : kMost));
}

ANCHOR_EXT_HD double exp_of(double x) {
  if (x != x) return x;
  const double within = limited(x, -746.0, 746.0);
  const double n = (within * 0x1.71547652b82fep+0 + 0x1.8p+52) - 0x1.8p+52;
  const double r = (within - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
  const auto whole = static_cast<std::int64_t>(n), half = whole / 2;
  const double first = double_of((1023 + half) << 52), second = double_of((1023 + whole - half) << 52);
  return (exp_series<13, 1>(r) * r + 1.0) * first * second;
}

ANCHOR_EXT_HD double exp_of_negative(double x) { return exp_of(x); }

// x = m 2**n with m from sqrt(1/2) on and below sqrt(2): 2 atanh(s) + n log(2) of s = (m - 1) / (m + 1), |s| < 0.172.
template <int kTerms>
ANCHOR_EXT_HD double log_of_positive(double x) {
  const bool is_subnormal = x < 0x1p-1022;
  const std::int64_t bits = bits_of(is_subnormal ? x * 0x1p54 : x);
  const std::int64_t n = (bits - std::int64_t{0x3fe6a09e667f3bcd}) >> 52;
  const double m = double_of(bits - static_cast<std::int64_t>(static_cast<std::uint64_t>(n) << 52));
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  const auto whole = static_cast<double>(is_subnormal ? n - 54 : n);
  return whole * 0x1.62e42feep-1 + (whole * 0x1.a39ef35793c76p-33 + 2.0 * (s + s * (z * atanh_series<kTerms, 1>(z))));
}

// -infinity of 0, and NaN of what is less.
template <int kTerms>
ANCHOR_EXT_HD double log_of_any(double x) {
  if (x > 0) return bits_of(x) == kInfiniteBits ? x : log_of_positive<kTerms>(x);
  return x == 0 ? double_of(kInfiniteBits | INT64_MIN) : x != x ? x : double_of(kNanBits);
}

ANCHOR_EXT_HD float log_of(float x) { return static_cast<float>(log_of_any<8>(x)); }
ANCHOR_EXT_HD double log_of(double x) { return log_of_any<13>(x); }

}  // namespace anchor_ext
