// The one rounding from float64 to an output type, the same integers on host and device.
#pragma once

#include <cstdint>
#include <cstring>

#include "pyramid.h"

namespace anchor_ext {

// The bits of an IEEE binary16 and of a bfloat16 number; neither compiler needs to know the types.
struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

ANCHOR_EXT_HD std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

ANCHOR_EXT_HD float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// float64 -> float32 with rounding to odd: an inexact result gets an odd last bit. float32 has more than two
// bits to spare over float16 and bfloat16, so rounding that once more to nearest is rounding the float64 once.
// (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", IEEE TC 57(4), 2008, theorem 3.)
ANCHOR_EXT_HD std::uint32_t round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  const std::uint32_t bits = bits_of(nearest);
  const double magnitude = value < 0 ? -value : value;
  const double rounded = nearest < 0 ? -static_cast<double>(nearest) : static_cast<double>(nearest);
  // An even inexact result has its odd neighbour on the side that the value lies on.
  const std::uint32_t step = magnitude > rounded ? 1u : magnitude < rounded ? ~0u : 0u;
  return (bits & 1u) ? bits : bits + step;
}

template <typename T>
ANCHOR_EXT_HD T round_to(double value) {
  return static_cast<T>(value);
}

template <>
ANCHOR_EXT_HD BFloat16 round_to<BFloat16>(double value) {
  const std::uint32_t bits = round_to_odd(value);
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
ANCHOR_EXT_HD Float16 round_to<Float16>(double value) {
  const std::uint32_t bits = round_to_odd(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  // Normal: the exponent's bias goes from 127 to 15, the mantissa from 23 bits to 10, to nearest even.
  const std::uint32_t normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal, below 2**-14: 0.5's last bit weighs 2**-24, so the addition itself rounds.
  const std::uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t rounded = magnitude >= 0x47800000u ? 0x7c00u : magnitude < 0x38800000u ? subnormal : normal;
  return {static_cast<std::uint16_t>(sign | rounded)};
}

}  // namespace anchor_ext
