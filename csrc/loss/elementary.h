// exp and log1p for a loss's range, by sums and products alone: of a vector's lanes as of one number, on a device as on
// the CPU they give the same bits. (No compiler here contracts a product and a sum.)
#pragma once

#include <cstdint>

#include "core/pyramid.h"

namespace anchor_ext {

// 2**n of -126 <= n <= 127.
ANCHOR_EXT_HD float power_of_two(std::int32_t n) { return float_of(static_cast<std::uint32_t>(n + 127) << 23); }

ANCHOR_EXT_HD double power_of_two_double(std::int32_t n) { return double_of(std::int64_t{n + 1023} << 52); }

// exp(x) of x <= 0, and something of no number, within 1.5 units in the last place; subnormal results as well.
//
// x = n log(2) + r with an integer n, of which 0x1.62ep-1 * n is exact; exp(r) is Taylor's polynomial of degree 7,
// whose remainder is under 1e-9 for |r| <= log(2) / 2.
ANCHOR_EXT_HD float exp_of_negative(float x) {
  constexpr std::uint32_t kMost = 0x42d00000;  // 104, from which on the result is 0
  const std::uint32_t magnitude = bits_of(x) & 0x7fffffff;
  const float limited = -float_of(magnitude < kMost ? magnitude : kMost);
  const float shifted = limited * 0x1.715476p+0f + 0x1.8p+23f;  // the integer is in the last bits
  const float n = shifted - 0x1.8p+23f;
  const float r = (limited - n * 0x1.62ep-1f) - n * 0x1.0bfbe8p-15f;
  float p = 0x1.a01a02p-13f;  // 1 / 7!
  p = p * r + 0x1.6c16c2p-10f;
  p = p * r + 0x1.111112p-7f;
  p = p * r + 0x1.555556p-5f;
  p = p * r + 0x1.555556p-3f;
  p = p * r + 0.5f;
  p = (p * r) * r + r;
  const auto whole = static_cast<std::int32_t>(bits_of(shifted) & 0x7fffff) - 0x400000;
  const std::int32_t half = whole >> 1;  // in two steps, since 2**whole may be too small for a number of its own
  return (p + 1.0f) * power_of_two(half) * power_of_two(whole - half);
}
ANCHOR_EXT_HD double exp_of_negative(double x) {
  constexpr std::int64_t kMost = 0x4087500000000000;  // 746
  const std::int64_t magnitude = bits_of(x) & INT64_MAX;
  const double limited = -double_of(magnitude < kMost ? magnitude : kMost);
  const double shifted = multiply_rounded(limited, 0x1.71547652b82fep+0) + 0x1.8p+52;
  const double n = shifted - 0x1.8p+52;
  const double r = (limited - multiply_rounded(n, 0x1.62e42feep-1)) - multiply_rounded(n, 0x1.a39ef35793c76p-33);
  double p = 1.0 / 6227020800.0;  // 1 / 13!
  double factorial = 6227020800.0;
  for (int k = 13; k > 2; --k) {
    factorial /= k;
    p = multiply_rounded(p, r) + 1.0 / factorial;
  }
  p = multiply_rounded(multiply_rounded(p, r), r) + r;
  const auto whole = static_cast<std::int32_t>(n);
  const std::int32_t half = whole >> 1;
  return multiply_rounded(multiply_rounded(p + 1.0, power_of_two_double(half)), power_of_two_double(whole - half));
}

// log(1 + x) of 0 <= x <= 1, within 2 units in the last place: 2 atanh(x / (2 + x)), whose series is
// cut where its terms are under 2e-8.
ANCHOR_EXT_HD float log1p_of_part(float x) {
  const float s = x / (x + 2.0f), z = s * s;
  float p = 0x1.3b13b2p-4f;  // 1 / 13
  p = p * z + 0x1.745d18p-4f;
  p = p * z + 0x1.c71c72p-4f;
  p = p * z + 0x1.24924ap-3f;
  p = p * z + 0x1.99999ap-3f;
  p = p * z + 0x1.555556p-2f;
  return 2.0f * (s + s * (z * p));
}
ANCHOR_EXT_HD double log1p_of_part(double x) {
  const double s = x / (x + 2.0), z = multiply_rounded(s, s);
  double p = 0;
  for (int k = 19; k > 0; --k) p = multiply_rounded(p, z) + 1.0 / (2 * k + 1);
  return 2.0 * (s + multiply_rounded(s, multiply_rounded(z, p)));
}

}  // namespace anchor_ext
