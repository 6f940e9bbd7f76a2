#include "core/clones.h"
#include "select/select.h"

namespace anchor_ext {
namespace {

constexpr int kBlock = 256;  // numbers of which mostly none is above

template <typename Bits>
ANCHOR_EXT_INLINE bool any_of(const Bits* bits, Bits bound) {
  Bits any = 0;
  for (int i = 0; i < kBlock; ++i) any = static_cast<Bits>(any | (order_of(bits[i]) > bound ? -1 : 0));
  return any != 0;
}

}  // namespace

ANCHOR_EXT_CLONES static bool any_above(const std::int16_t* bits, std::int16_t bound) { return any_of(bits, bound); }
ANCHOR_EXT_CLONES static bool any_above(const std::int32_t* bits, std::int32_t bound) { return any_of(bits, bound); }
ANCHOR_EXT_CLONES static bool any_above(const std::int64_t* bits, std::int64_t bound) { return any_of(bits, bound); }

namespace {

template <typename Bits>
void add_any(const Bits* bits, std::int64_t begin, std::int64_t end, Bits bound, std::vector<std::int64_t>& to) {
  for (std::int64_t first = begin; first < end; first += kBlock) {
    const bool is_whole = end - first >= kBlock;
    if (is_whole && !any_above(bits + first, bound)) continue;
    const std::int64_t last = is_whole ? first + kBlock : end;
    for (std::int64_t i = first; i < last; ++i)
      if (order_of(bits[i]) > bound) to.push_back(i);
  }
}

}  // namespace

void add_above(const std::int16_t* bits, std::int64_t begin, std::int64_t end, std::int16_t bound,
               std::vector<std::int64_t>& to) {
  add_any(bits, begin, end, bound, to);
}
void add_above(const std::int32_t* bits, std::int64_t begin, std::int64_t end, std::int32_t bound,
               std::vector<std::int64_t>& to) {
  add_any(bits, begin, end, bound, to);
}
void add_above(const std::int64_t* bits, std::int64_t begin, std::int64_t end, std::int64_t bound,
               std::vector<std::int64_t>& to) {
  add_any(bits, begin, end, bound, to);
}

}  // namespace anchor_ext
