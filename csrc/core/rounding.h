// The one rounding from float64 to an output type, with the same result on host and device.
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
  if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | (magnitude << 13));  // infinite, or NaN
  // The exponent's bias goes from 15 to 127, for subnormals as well: a product with 2**112, which is exact.
  return float_of(sign | bits_of(float_of(magnitude << 13) * float_of(0x77800000u)));
}

// So that a template need not know whether a type is wide.
ANCHOR_EXT_HD float widened(float value) { return value; }
ANCHOR_EXT_HD double widened(double value) { return value; }

// The arithmetic of a type's numbers: that of float32 for 16 bits.
template <typename T>
using Computed = decltype(widened(T{}));

ANCHOR_EXT_HD std::int64_t bits_of(double value) {
  std::int64_t bits;
#if defined(__CUDA_ARCH__)  // nvcc would make float64 operations of what is done with the bits
  asm("mov.b64 %0, %1;" : "=l"(bits) : "d"(value));
#else
  std::memcpy(&bits, &value, sizeof bits);
#endif
  return bits;
}

inline constexpr std::int64_t kNanBits = std::int64_t{0x7ff8} << 48;  // of float64, as torch writes it
inline constexpr std::int64_t kInfiniteBits = std::int64_t{0x7ff} << 52;

ANCHOR_EXT_HD double double_of(std::int64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

ANCHOR_EXT_HD std::uint16_t bits_of(Float16 value) { return value.bits; }
ANCHOR_EXT_HD std::uint16_t bits_of(BFloat16 value) { return value.bits; }

// The integer that holds the bits of an output type's numbers.
template <typename T>
using Bits = decltype(bits_of(T{}));

// float64 -> a binary format of 16 bits with so many of them for the mantissa, to nearest even, by integers: without a
// branch, not even one that a condition would become, so that compilers make vectors of it.
template <int kMantissa>
ANCHOR_EXT_HD std::int64_t round_to_16(double value) {
  constexpr int kDropped = 52 - kMantissa, kBias = (1 << (14 - kMantissa)) - 1;
  constexpr std::int64_t kInfinite = ((std::int64_t{1} << (15 - kMantissa)) - 1) << kMantissa;
  const std::int64_t bits = bits_of(value), magnitude = bits & 0x7fffffffffffffff;
  // Normal: the exponent's bias goes from 1023 to the format's, the mantissa from 52 bits to the format's.
  const std::int64_t even = (std::int64_t{1} << (kDropped - 1)) - 1 + ((magnitude >> kDropped) & 1);
  const std::int64_t normal = (magnitude - (std::int64_t{1023 - kBias} << 52) + even) >> kDropped;
  // Subnormal: beside a float64 whose last bit weighs what the format's smallest number does, the addition rounds.
  constexpr std::int64_t kUnit = std::int64_t{1023 + 1 - kBias - kMantissa + 52} << 52;
  const std::int64_t subnormal = bits_of(double_of(magnitude) + double_of(kUnit)) - kUnit;
  const std::int64_t is_subnormal = (magnitude - (std::int64_t{1023 + 1 - kBias} << 52)) >> 63;
  const std::int64_t finite = (subnormal & is_subnormal) | (normal & ~is_subnormal);
  const std::int64_t rounded = finite < kInfinite ? finite : kInfinite;
  const std::int64_t is_none = (0x7ff0000000000000 - magnitude) >> 63;
  return ((bits >> 48) & 0x8000 & ~is_none) | rounded | (is_none & 1 << (kMantissa - 1));
}

template <typename T>
ANCHOR_EXT_HD T round_to(double value) {
  return static_cast<T>(value);
}

template <>
ANCHOR_EXT_HD BFloat16 round_to<BFloat16>(double value) {
  return {static_cast<std::uint16_t>(round_to_16<7>(value))};
}

template <>
ANCHOR_EXT_HD Float16 round_to<Float16>(double value) {
#if defined(__CUDA_ARCH__)  // one instruction, which rounds once
  std::uint16_t bits;
  asm("cvt.rn.f16.f64 %0, %1;" : "=h"(bits) : "d"(value));
  return {bits};
#else
  return {static_cast<std::uint16_t>(round_to_16<10>(value))};
#endif
}

// The types that anchors come in, and that an operation's result may be rounded to on the way there.
enum class Dtype : std::int32_t { float32, float64, float16, bfloat16 };

ANCHOR_EXT_HD std::int64_t bytes_of(Dtype dtype) {
  return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
}

// To a type's nearest number, once.
ANCHOR_EXT_HD double nearest(double value, Dtype dtype) {
  if (dtype == Dtype::float32) return narrowed(value);
  if (dtype == Dtype::float16) return widened(round_to<Float16>(value));
  if (dtype == Dtype::bfloat16) return widened(round_to<BFloat16>(value));
  return value;
}

// bfloat16 is the upper half of float32, its subnormals and its infinity as well.
ANCHOR_EXT_HD float nearest_bfloat16(float value) {
  const std::uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return float_of(0x7fc00000u);
  return float_of((bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u);
}

// The result of one operation, as a torch operator of that dtype leaves it: the 16-bit ones compute in float32 and
// round that. (The sum, the product or the quotient of two float32 numbers, in float64 and then rounded to float32, is
// the same as rounded once: Figueroa, "When is double rounding innocuous?", SIGNUM 30(3), 1995.)
ANCHOR_EXT_HD double rounded(double value, Dtype dtype) {
  if (dtype == Dtype::float64) return value;
  const float single = narrowed(value);
  if (dtype == Dtype::float32) return single;
  return dtype == Dtype::bfloat16 ? nearest_bfloat16(single) : widened(round_to<Float16>(single));
}

}  // namespace anchor_ext
