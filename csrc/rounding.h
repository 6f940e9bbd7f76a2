// The one rounding from float64 to an output type, the same integers on host and device.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define ANCHOR_EXT_HD __host__ __device__ __forceinline__
#else  // loops over a level's side spend a third of their time on calls otherwise
#define ANCHOR_EXT_HD inline __attribute__((always_inline))
#endif

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

// float64 -> float32. GCC 12 at -O2 drops this conversion where it vectorises two of them whose results become float64
// again; behind the empty statement it cannot know where the number comes from.
ANCHOR_EXT_HD float narrowed(double value) {
  float result = static_cast<float>(value);
#if defined(__GNUC__) && !defined(__CUDA_ARCH__)
#if defined(__SSE2__)
  __asm__("" : "+x"(result));
#else
  __asm__("" : "+m"(result));
#endif
#endif
  return result;
}

ANCHOR_EXT_HD float widened(BFloat16 value) { return float_of(std::uint32_t{value.bits} << 16); }

ANCHOR_EXT_HD float widened(Float16 value) {
  const std::uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | (magnitude << 13));  // infinite, or no number
  // The exponent's bias goes from 15 to 127, for subnormals as well: a product with 2**112, which is exact.
  return float_of(sign | bits_of(float_of(magnitude << 13) * float_of(0x77800000u)));
}

// float64 -> float32 with rounding to odd: an inexact result gets an odd last bit. float32 has more than two
// bits to spare over float16 and bfloat16, so rounding that once more to nearest is rounding the float64 once.
// (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", IEEE TC 57(4), 2008, theorem 3.)
ANCHOR_EXT_HD std::uint32_t round_to_odd(double value) {
  const float nearest = narrowed(value);
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
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fc0};  // no number
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
ANCHOR_EXT_HD Float16 round_to<Float16>(double value) {
  const std::uint32_t bits = round_to_odd(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {0x7e00};  // no number
  // Normal: the exponent's bias goes from 127 to 15, the mantissa from 23 bits to 10, to nearest even.
  const std::uint32_t normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal, below 2**-14: 0.5's last bit weighs 2**-24, so the addition itself rounds.
  const std::uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t rounded = magnitude >= 0x47800000u ? 0x7c00u : magnitude < 0x38800000u ? subnormal : normal;
  return {static_cast<std::uint16_t>(sign | rounded)};
}

// The types that anchors come in, and that an operation's result may be rounded to on the way there.
enum class Dtype : std::int32_t { float32, float64, float16, bfloat16 };

// To a type's nearest number, once.
ANCHOR_EXT_HD double nearest(double value, Dtype dtype) {
  if (dtype == Dtype::float32) return narrowed(value);
  if (dtype == Dtype::float16) return widened(round_to<Float16>(value));
  if (dtype == Dtype::bfloat16) return widened(round_to<BFloat16>(value));
  return value;
}

// The result of one operation, as a torch operator of that dtype leaves it: the 16-bit ones compute in float32 and
// round that. (The sum, the product or the quotient of two float32 numbers, in float64 and then rounded to float32, is
// the same as rounded once: Figueroa, "When is double rounding innocuous?", SIGNUM 30(3), 1995.)
ANCHOR_EXT_HD double rounded(double value, Dtype dtype) {
  if (dtype == Dtype::float64) return value;
  const float single = narrowed(value);
  return dtype == Dtype::float32 ? single : nearest(single, dtype);
}

}  // namespace anchor_ext
