// The kernels of csrc/select: the greatest logits by sorting all of them, and what is left of these.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "memory.h"
#include "select/select.h"

using namespace anchor_ext;
using namespace cases;

namespace {

template <typename Bits>
Bits some_logit(int kind) {
  if (kind == 0) return static_cast<Bits>(rng());  // also infinite, and no number
  if (kind == 1) return static_cast<Bits>(integer(40, 44));
  return 100;
}

struct Key {
  std::int32_t order;
  std::int64_t flat;
  bool operator<(const Key& other) const { return order != other.order ? order > other.order : flat < other.flat; }
};

template <typename T>
void check_one(int kind, bool is_large) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int16_t>;
  Selecting of{};
  of.images = static_cast<std::int32_t>(integer(1, 2));
  of.classes = is_large ? 5 : integer(1, 5);
  of.num_levels = static_cast<std::int32_t>(integer(1, 3));
  const bool is_flat = integer(0, 1) == 0;
  const auto most = static_cast<std::int32_t>(integer(0, is_large ? 1 : 4) == 0 ? kMostKept : integer(1, 300));
  Input input;
  std::size_t offsets[kMaxLevels];
  std::vector<std::vector<Bits>> logits;
  std::int64_t anchors = 0;
  for (std::int32_t l = 0; l < of.num_levels; ++l) {
    SelectLevel& level = of.levels[l];
    level.cell_anchors = integer(1, 3);
    level.cells = is_large ? integer(1000, 1300) : integer(0, 200);
    level.count = level.cells * level.cell_anchors * of.classes;
    level.stride = level.count + integer(0, 3);
    level.begin = anchors;
    level.tile = of.tiles;
    level.slot = of.slots;
    level.kept = static_cast<std::int32_t>(std::min<std::int64_t>(most, level.count));
    anchors += level.cells * level.cell_anchors;
    of.tiles += (level.count + kSelectTile - 1) / kSelectTile;
    of.slots += level.kept;
    if (is_flat) level.cells = 0;
    logits.emplace_back(static_cast<std::size_t>(of.images * level.stride));
    for (Bits& bits : logits.back()) bits = some_logit<Bits>(kind);
    offsets[l] = input.add(logits.back());
  }
  constexpr Bits kInfinite = static_cast<Bits>(sizeof(T) == 4 ? 0x7f800000 : 0x7c00);
  of.most = kInfinite;
  of.above = is_large || integer(0, 1) ? -kInfinite - 2 : kInfinite / 2;

  // What is expected.
  const auto results = static_cast<std::size_t>(of.images * of.slots);
  std::vector<Bits> greatest(results, 0);
  std::vector<std::int64_t> index(results, 0), labels(results, -1);
  std::vector<std::int32_t> found;
  for (std::int32_t image = 0; image < of.images; ++image)
    for (std::int32_t l = 0; l < of.num_levels; ++l) {
      const SelectLevel& level = of.levels[l];
      std::vector<Key> keys;
      for (std::int64_t at = 0; at < level.count; ++at) {
        const std::int32_t order = order_of(logits[l][static_cast<std::size_t>(image * level.stride + at)]);
        if (order > of.above && order <= of.most) keys.push_back({order, level.flattened(at, of.classes)});
      }
      std::sort(keys.begin(), keys.end());
      if (keys.size() > static_cast<std::size_t>(level.kept)) keys.resize(static_cast<std::size_t>(level.kept));
      found.push_back(static_cast<std::int32_t>(keys.size()));
      for (std::size_t i = 0; i < keys.size(); ++i) {
        const std::size_t to = static_cast<std::size_t>(image * of.slots + level.slot) + i;
        greatest[to] = order_of(static_cast<Bits>(keys[i].order));
        index[to] = level.begin + keys[i].flat / of.classes;
        labels[to] = keys[i].flat % of.classes;
      }
    }

  // The kernels write the logits, the index and the labels one behind the other.
  const std::size_t wide = results * 8;
  const auto levels_in = [&](const void* memory) {
    Selecting here = of;
    for (std::int32_t l = 0; l < of.num_levels; ++l) here.levels[l].memory = at<Bits>(memory, offsets[l]);
    return here;
  };
  const auto bytes = static_cast<std::size_t>(of.parts() * SelectMemory::kBytes);
  Bytes expected(2 * wide + results * sizeof(Bits));
  std::memcpy(expected.data(), index.data(), wide);
  std::memcpy(expected.data() + wide, labels.data(), wide);
  std::memcpy(expected.data() + 2 * wide, greatest.data(), results * sizeof(Bits));
  const auto all = [&](void* out, const void* in) {
    const Scratch memory(bytes, true);
    auto* const to = static_cast<unsigned char*>(out);
    greatest_cuda(levels_in(in), memory.as<void>(),
                  Greatest<Bits>{reinterpret_cast<Bits*>(to + 2 * wide), reinterpret_cast<std::int64_t*>(to),
                                 reinterpret_cast<std::int64_t*>(to + wide)},
                  device, nullptr);
  };
  compare("select's greatest logits", expected, made(expected.size(), 0, all, input.bytes.data(), input.bytes.size()),
          Dtype::float64);

  // Of these the ones above a threshold, where a score may be any number.
  Input packed;
  std::vector<SelectState> states(static_cast<std::size_t>(of.parts()));
  for (std::size_t part = 0; part < states.size(); ++part)  // a part's state counts all that were gathered
    states[part].found = found[part] + (found[part] == of.levels[part % of.num_levels].kept ? 7 : 0);
  std::vector<T> scores(results);
  for (T& score : scores) score = round_to<T>(integer(0, 9) == 0 ? std::nan("") : uniform(0, 1));
  const std::size_t at_states = packed.add(states), at_scores = packed.add(scores), at_index = packed.add(index),
                    at_labels = packed.add(labels);
  std::vector<T> kept_scores(results, round_to<T>(0.0));
  std::vector<std::int64_t> kept_index(results, 0), kept_labels(results, -1), counts;
  for (std::int32_t image = 0; image < of.images; ++image) {
    std::int64_t to = image * of.slots;
    for (std::int32_t l = 0; l < of.num_levels; ++l)
      for (std::int32_t i = 0; i < found[static_cast<std::size_t>(image * of.num_levels + l)]; ++i) {
        const auto from = static_cast<std::size_t>(image * of.slots + of.levels[l].slot + i);
        if (!(static_cast<double>(widened(scores[from])) > 0.5)) continue;
        kept_scores[static_cast<std::size_t>(to)] = scores[from];
        kept_index[static_cast<std::size_t>(to)] = index[from];
        kept_labels[static_cast<std::size_t>(to++)] = labels[from];
      }
    counts.push_back(to - image * of.slots);
  }
  Bytes left(2 * wide + counts.size() * 8 + results * sizeof(T));
  std::memcpy(left.data(), kept_index.data(), wide);
  std::memcpy(left.data() + wide, kept_labels.data(), wide);
  std::memcpy(left.data() + 2 * wide, counts.data(), counts.size() * 8);
  std::memcpy(left.data() + 2 * wide + counts.size() * 8, kept_scores.data(), results * sizeof(T));
  const auto pack = [&](void* out, const void* in) {
    auto* const to = static_cast<unsigned char*>(out);
    pack_cuda(of, at<SelectState>(in, at_states), at<T>(in, at_scores), at<std::int64_t>(in, at_index),
              at<std::int64_t>(in, at_labels), 0.5,
              Selected<T>{reinterpret_cast<T*>(to + 2 * wide + counts.size() * 8), reinterpret_cast<std::int64_t*>(to),
                          reinterpret_cast<std::int64_t*>(to + wide), reinterpret_cast<std::int64_t*>(to + 2 * wide)},
              device, nullptr);
  };
  compare("select's packing", left, made(left.size(), 0, pack, packed.bytes.data(), packed.bytes.size()),
          Dtype::float64);
}

void check_select() {
  for (int kind = 0; kind < 3; ++kind) {
    for (int i = 0; i < 12; ++i) {
      check_one<float>(kind, false);
      check_one<Float16>(kind, false);
    }
    for (int i = 0; i < 3; ++i) {  // more than a block sorts
      check_one<float>(kind, true);
      check_one<Float16>(kind, true);
    }
  }
}

const bool added = add(check_select);

}  // namespace
