// The operator select: the pass over the logits finds the few whose scores may exceed the threshold; of these torch's
// own sigmoid and topk make what they would make of all.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/spec.h"
#include "select/select.h"
#include "torch/arguments.h"
#include "torch/nvtx.h"
#include "torch/run.h"

namespace anchor_ext {
namespace {

namespace stable = torch::stable;
using Integers = std::vector<std::int64_t>;
using Tensors = std::vector<stable::Tensor>;

stable::Tensor sigmoid(const stable::Tensor& tensor) {
  std::array<StableIValue, 1> stack{stable::detail::from(tensor)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sigmoid", "", stack.data(), TORCH_ABI_VERSION));
  return stable::detail::to<stable::Tensor>(stack[0]);
}

// The greatest `count` numbers of a tensor, in descending order, and where they are.
std::pair<stable::Tensor, stable::Tensor> topk(const stable::Tensor& tensor, std::int64_t count) {
  std::array<StableIValue, 5> stack{stable::detail::from(tensor), stable::detail::from(count),
                                    stable::detail::from(std::int64_t{-1}), stable::detail::from(true),
                                    stable::detail::from(true)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::topk", "", stack.data(), TORCH_ABI_VERSION));
  return {stable::detail::to<stable::Tensor>(stack[0]), stable::detail::to<stable::Tensor>(stack[1])};
}

// The distance of 1 from the number before, at most.
template <typename T>
constexpr double kUnit = sizeof(T) == 8               ? 0x1p-53
                         : sizeof(T) == 4             ? 0x1p-24
                         : std::is_same_v<T, Float16> ? 0x1p-11
                                                      : 0x1p-8;
template <typename T>
using SignedBits =
    std::conditional_t<sizeof(T) == 8, std::int64_t, std::conditional_t<sizeof(T) == 4, std::int32_t, std::int16_t>>;

// Logits whose order is no more have scores that are no more than the threshold, whatever sigmoid's last bits are.
template <typename T>
SignedBits<T> bound_of(double threshold) {
  using Bits = SignedBits<T>;
  const double t = threshold * (1 - 16 * kUnit<T>);
  if (!(t > 0)) return std::numeric_limits<Bits>::min();
  if (threshold >= 1) return std::numeric_limits<Bits>::max();
  const double logit = std::log(t / (1 - t));
  const Bits bound = order_of(static_cast<Bits>(bits_of(round_to<T>(logit - 1e-6 * (1 + std::fabs(logit))))));
  return static_cast<Bits>(bound - 1);
}

// A level of an image, whose logits are those that its memory begins with.
struct Part : SelectLevel {
  std::int64_t image;

  // Where a logit lies in memory, of its index as anchors and classes are flattened.
  std::int64_t in_memory(std::int64_t index, std::int64_t classes) const {
    if (cells == 0) return index;
    const std::int64_t anchor = index / classes, cell = anchor / cell_anchors;
    return ((anchor - cell * cell_anchors) * classes + index - anchor * classes) * cells + cell;
  }
};

struct Call {
  Tensors logits;  // contiguous, image by image
  Integers sizes;  // anchors of each level
  std::int64_t images, classes, most;
  double threshold;
  bool is_flat;

  Call(const Tensors& given, const Integers& level_sizes, std::int64_t of_classes, double score_threshold,
       std::int64_t topk_per_level)
      : sizes(level_sizes), classes(of_classes), most(topk_per_level), threshold(score_threshold) {
    if (given.empty()) reject("logits has 0 tensors; expected one, or one per level");
    if (!(threshold == threshold)) reject("score_threshold is nan; expected a number");
    if (most < 1) reject("topk_per_level is ", most, "; expected an integer >= 1");
    if (classes < 0) reject("num_classes is ", classes, "; expected an integer >= 0");
    is_flat = given[0].dim() == 3;
    images = given[0].dim() > 0 ? given[0].size(0) : 0;
    if (sizes.size() > kMaxLevels) reject("level_sizes has ", sizes.size(), " levels; expected at most ", kMaxLevels);
    if (images > INT32_MAX) reject("logits has ", images, " images; expected at most ", INT32_MAX);
    if (given.size() != sizes.size() && !(is_flat && given.size() == 1))
      reject("logits has ", given.size(), " tensors; expected one (images, anchors, classes), or a level's each");
    std::int64_t anchors = 0;
    for (std::size_t level = 0; level < sizes.size(); ++level) {
      if (sizes[level] < 0) reject("level_sizes[", level, "] is ", sizes[level], "; expected an integer >= 0");
      anchors += sizes[level];
    }
    for (std::size_t i = 0; i < given.size(); ++i) {
      const stable::Tensor& one = given[i];
      if (one.dim() != (is_flat ? 3 : 4) || one.size(0) != images || one.device() != given[0].device() ||
          one.scalar_type() != given[0].scalar_type())
        reject("logits[", i, "]: expected as many dimensions and images, the dtype and the device of logits[0]");
      const std::int64_t own = given.size() == 1 ? anchors : sizes[i];
      const bool fits = is_flat ? one.size(1) == own && one.size(2) == classes
                                : one.numel() == images * own * classes && (classes == 0 || one.size(1) % classes == 0);
      if (!fits) reject("logits[", i, "]: expected the anchors of level_sizes, of ", classes, " classes each");
      // Levels of one tensor are not contiguous, but each image's part is.
      const bool is_dense = is_flat && one.stride(2) == 1 && one.stride(1) == classes;
      logits.push_back(is_dense ? one : as_contiguous(one));
    }
  }

  std::int64_t kept(std::size_t level) const { return std::min(most, sizes[level] * classes); }
  std::int64_t slots() const {
    std::int64_t all = 0;
    for (std::size_t level = 0; level < sizes.size(); ++level) all += kept(level);
    return all;
  }

  template <typename T>
  Selecting selecting() const {
    Selecting made{};
    made.num_levels = static_cast<std::int32_t>(sizes.size());
    made.images = static_cast<std::int32_t>(images);
    made.classes = classes;
    std::int64_t begin = 0;
    for (std::size_t l = 0; l < sizes.size(); begin += sizes[l++]) {
      const bool is_one = is_flat && logits.size() == 1;
      const stable::Tensor& given = logits[is_one ? 0 : l];
      SelectLevel& level = made.levels[l];
      level.memory = static_cast<const T*>(given.const_data_ptr()) + (is_one ? begin * classes : 0);
      level.stride = given.stride(0);
      level.count = sizes[l] * classes;
      if (!is_flat && level.count > 0) {
        level.cells = given.size(2) * given.size(3);
        level.cell_anchors = given.size(1) / classes;
      }
      level.begin = begin;
      level.tile = made.tiles;
      level.slot = made.slots;
      level.kept = static_cast<std::int32_t>(std::min<std::int64_t>(kept(l), INT32_MAX));
      made.tiles += (level.count + kSelectTile - 1) / kSelectTile;
      made.slots += kept(l);
    }
    return made;
  }

  template <typename T>
  std::vector<Part> parts() const {
    const Selecting task = selecting<T>();
    std::vector<Part> all;
    for (std::int64_t image = 0; image < images; ++image)
      for (std::int32_t level = 0; level < task.num_levels; ++level) {
        Part part{task.levels[level], image};
        part.memory = static_cast<const T*>(part.memory) + image * part.stride;
        all.push_back(part);
      }
    return all;
  }
};

constexpr std::int64_t kShare = 1 << 16;  // logits that are scanned by one thread
constexpr std::int64_t kVectors = 64;     // a multiple of what torch's operators take at once

// Per part the indices, as anchors and classes are flattened, of logits above the bound, ascending.
template <typename T>
std::vector<Integers> candidates_of(const Call& call, const std::vector<Part>& parts) {
  struct Share {
    std::size_t part;
    std::int64_t begin, end;
    Integers found;
  };
  std::vector<Share> shares;
  for (std::size_t p = 0; p < parts.size(); ++p)
    for (std::int64_t begin = 0; begin < parts[p].count; begin += kShare)
      shares.push_back({p, begin, std::min(begin + kShare, parts[p].count), {}});
  const SignedBits<T> bound = bound_of<T>(double{widened(round_to<T>(call.threshold))});
  on_cpu(static_cast<std::int64_t>(shares.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      Share& share = shares[static_cast<std::size_t>(i)];
      const auto* const bits = static_cast<const SignedBits<T>*>(parts[share.part].memory);
      add_above(bits, share.begin, share.end, bound, share.found);
    }
  });
  std::vector<Integers> found(parts.size());
  for (const Share& share : shares)
    for (const std::int64_t at : share.found)
      found[share.part].push_back(parts[share.part].flattened(at, call.classes));
  if (!call.is_flat)
    for (Integers& of_part : found) std::sort(of_part.begin(), of_part.end());
  return found;
}

// The scores of logits as torch's sigmoid gives them of a whole level. It takes the last few numbers of a tensor one by
// one, by another exp than the others: so the last of a level are its last here, and others are followed by some more.
template <typename T>
std::vector<T> scores_of(const Call& call, const Part& part, const Integers& index) {
  const std::int64_t tail = part.count / kVectors * kVectors, rest = part.count - tail;
  const auto in_tail = std::lower_bound(index.begin(), index.end(), tail);
  const auto others = static_cast<std::int64_t>(in_tail - index.begin());
  const auto* const memory = static_cast<const T*>(part.memory);
  const auto scores = [&](std::int64_t count, const auto& logit_at) {
    stable::Tensor compact = empty({count}, call.logits[0].scalar_type(), {DeviceType::CPU});
    auto* const to = static_cast<T*>(compact.mutable_data_ptr());
    for (std::int64_t i = 0; i < count; ++i) to[i] = logit_at(i);
    const stable::Tensor made = sigmoid(compact);
    const auto* const from = static_cast<const T*>(made.const_data_ptr());
    return std::vector<T>(from, from + count);
  };
  std::vector<T> result;
  if (others > 0) {
    const std::int64_t padded = (others + kVectors - 1) / kVectors * kVectors;
    result = scores(padded, [&](std::int64_t i) {
      return memory[part.in_memory(index[static_cast<std::size_t>(std::min(i, others - 1))], call.classes)];
    });
    result.resize(static_cast<std::size_t>(others));
  }
  if (in_tail != index.end()) {
    const std::vector<T> last =
        scores(rest, [&](std::int64_t i) { return memory[part.in_memory(tail + i, call.classes)]; });
    for (auto at = in_tail; at != index.end(); ++at) result.push_back(last[static_cast<std::size_t>(*at - tail)]);
  }
  return result;
}

template <typename T>
void select(const Call& call, const Selected<T>& result) {
  const std::vector<Part> parts = call.parts<T>();
  std::vector<Integers> candidates = candidates_of<T>(call, parts);
  const double threshold = double{widened(round_to<T>(call.threshold))};
  const std::int64_t slots = call.slots();
  std::fill_n(result.counts, call.images, 0);
  std::fill_n(result.scores, call.images * slots, round_to<T>(0.0));
  std::fill_n(result.index, call.images * slots, 0);
  std::fill_n(result.labels, call.images * slots, -1);
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const std::vector<T> all = scores_of<T>(call, parts[p], candidates[p]);
    Integers kept;
    std::vector<T> of_kept;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!(double{widened(all[i])} > threshold)) continue;
      kept.push_back(candidates[p][i]);
      of_kept.push_back(all[i]);
    }
    if (kept.empty()) continue;
    const auto found = static_cast<std::int64_t>(kept.size());
    stable::Tensor compact = empty({found}, call.logits[0].scalar_type(), {DeviceType::CPU});
    std::copy(of_kept.begin(), of_kept.end(), static_cast<T*>(compact.mutable_data_ptr()));
    const std::int64_t count = std::min(call.most, found);
    const auto [values, places] = topk(compact, count);
    const auto* const best = static_cast<const T*>(values.const_data_ptr());
    const auto* const at = static_cast<const std::int64_t*>(places.const_data_ptr());
    std::int64_t& done = result.counts[parts[p].image];
    const std::int64_t first = parts[p].image * slots + done;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t flat = kept[static_cast<std::size_t>(at[i])];
      result.scores[first + i] = best[i];
      result.index[first + i] = parts[p].begin + flat / call.classes;
      result.labels[first + i] = flat % call.classes;
    }
    done += count;
  }
}

#if defined(ANCHOR_EXT_WITH_CUDA)
// On a device: the greatest logits, and of these torch's own scores.
template <typename T>
void select_on_device(const Call& call, const Selected<T>& result, stable::Device device) {
  using Bits = SignedBits<T>;
  Selecting task = call.selecting<T>();
  for (std::int32_t l = 0; l < task.num_levels; ++l)
    if (task.levels[l].count > kMostOfLevel || task.levels[l].kept > kMostKept)
      reject("topk_per_level is ", call.most, "; expected at most ", kMostKept, " on CUDA, of fewer than 2**32 logits");
  constexpr Bits kInfinite = static_cast<Bits>(std::is_same_v<T, float>     ? 0x7f800000
                                               : std::is_same_v<T, Float16> ? 0x7c00
                                                                            : 0x7f80);
  const double threshold = double{widened(round_to<T>(call.threshold))};
  task.above = std::max(bound_of<T>(threshold), static_cast<Bits>(-kInfinite - 2));  // order_of(-infinity) - 1
  task.most = kInfinite;
  const auto bytes = task.parts() * SelectMemory::kBytes;
  stable::Tensor memory = empty({bytes / 8 + 1}, ScalarType::Long, device);
  stable::Tensor logits = empty({call.images, task.slots}, call.logits[0].scalar_type(), device);
  stable::Tensor index = empty({call.images, task.slots}, ScalarType::Long, device);
  stable::Tensor labels = empty({call.images, task.slots}, ScalarType::Long, device);
  auto* const at = static_cast<std::int64_t*>(index.mutable_data_ptr());
  auto* const labels_at = static_cast<std::int64_t*>(labels.mutable_data_ptr());
  on_cuda(place_of(device).index, [&](int own, void* stream) {
    greatest_cuda(task, memory.mutable_data_ptr(),
                  Greatest<Bits>{static_cast<Bits*>(logits.mutable_data_ptr()), at, labels_at}, own, stream);
    const stable::Tensor scores = sigmoid(logits);
    pack_cuda(task, memory.const_data_ptr(), static_cast<const T*>(scores.const_data_ptr()), at, labels_at, threshold,
              result, own, stream);
  });
}
#endif

std::tuple<stable::Tensor, stable::Tensor, stable::Tensor, stable::Tensor> select_op(Tensors logits,
                                                                                     Integers level_sizes,
                                                                                     std::int64_t num_classes,
                                                                                     double score_threshold,
                                                                                     std::int64_t topk_per_level) {
  ANCHOR_EXT_RANGE("select");
  const Call call(logits, level_sizes, num_classes, score_threshold, topk_per_level);
  const stable::Device device = logits[0].device();
  const ScalarType dtype = logits[0].scalar_type();
  stable::Tensor scores = empty({call.images, call.slots()}, dtype, device);
  stable::Tensor index = empty({call.images, call.slots()}, ScalarType::Long, device);
  stable::Tensor labels = empty({call.images, call.slots()}, ScalarType::Long, device);
  stable::Tensor counts = empty({call.images}, ScalarType::Long, device);
  with_type("logits", dtype, [&](auto of_type) {
    using T = decltype(of_type);
    if (device.type() == DeviceType::Meta || call.images == 0) return;
    const Selected<T> result{
        static_cast<T*>(scores.mutable_data_ptr()), static_cast<std::int64_t*>(index.mutable_data_ptr()),
        static_cast<std::int64_t*>(labels.mutable_data_ptr()), static_cast<std::int64_t*>(counts.mutable_data_ptr())};
    if (device.type() == DeviceType::CPU) return select<T>(call, result);
#if defined(ANCHOR_EXT_WITH_CUDA)
    if constexpr (sizeof(T) < 8) return select_on_device<T>(call, result, device);
#endif
    reject("logits are ", shown(dtype), "; expected float32, float16 or bfloat16 on CUDA, in a build with CUDA");
  });
  return {scores, index, labels, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(anchor_ext, m) {
  m.def(
      "select(Tensor[] logits, SymInt[] level_sizes, SymInt num_classes, float score_threshold, int topk_per_level) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(anchor_ext, CompositeExplicitAutograd, m) { m.impl("select", TORCH_BOX(&select_op)); }

}  // namespace anchor_ext
