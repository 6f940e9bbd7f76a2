// Which of many logits are above a bound: one pass over their bits, in vectors.
#pragma once

#include <cstdint>
#include <vector>

namespace anchor_ext {

// A number's bits as an integer that orders as the numbers do; no number is above infinity, or below all.
template <typename Bits>
inline Bits order_of(Bits bits) {
  constexpr Bits kMagnitude = static_cast<Bits>(~(Bits{1} << (8 * sizeof(Bits) - 1)));
  return static_cast<Bits>(bits ^ ((bits >> (8 * sizeof(Bits) - 1)) & kMagnitude));
}

// Adds the indices in begin .. end-1 of the numbers whose order is above `bound`, in ascending order.
void add_above(const std::int16_t* bits, std::int64_t begin, std::int64_t end, std::int16_t bound,
               std::vector<std::int64_t>& to);
void add_above(const std::int32_t* bits, std::int64_t begin, std::int64_t end, std::int32_t bound,
               std::vector<std::int64_t>& to);
void add_above(const std::int64_t* bits, std::int64_t begin, std::int64_t end, std::int64_t bound,
               std::vector<std::int64_t>& to);

}  // namespace anchor_ext
