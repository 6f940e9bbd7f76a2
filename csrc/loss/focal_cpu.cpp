// The focal loss on the CPU: of each group all logits as if they were of other classes, in vectors; then those few are
// computed again that are of an anchor's own class, and those of anchors that take no part are left out.
#include <algorithm>
#include <vector>

#include "core/clones.h"
#include "loss/focal.h"

namespace anchor_ext {
namespace {

template <bool kLoss, bool kTwo, typename C>
ANCHOR_EXT_INLINE void others_of(const C* __restrict x, C alpha, C gamma, C scale, C* __restrict out) {
  for (int i = 0; i < kGroup; ++i) out[i] = share_of<kLoss, kTwo>(x[i], false, alpha, alpha, gamma) * scale;
}

template <typename C>
ANCHOR_EXT_INLINE void others_in_form(bool is_loss, bool is_two, const C* x, C alpha, C gamma, C scale, C* out) {
  if (is_loss)
    is_two ? others_of<true, true>(x, alpha, gamma, scale, out) : others_of<true, false>(x, alpha, gamma, scale, out);
  else
    is_two ? others_of<false, true>(x, alpha, gamma, scale, out) : others_of<false, false>(x, alpha, gamma, scale, out);
}

template <typename C>
ANCHOR_EXT_INLINE C sum_by_pairs(C* numbers) {
  for (int half = kGroup / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) numbers[i] += numbers[i + half];
  return numbers[0];
}

}  // namespace

ANCHOR_EXT_CLONES static void others(bool is_loss, bool is_two, const float* x, float alpha, float gamma, float scale,
                                     float* out) {
  others_in_form(is_loss, is_two, x, alpha, gamma, scale, out);
}
static void others(bool is_loss, bool is_two, const double* x, double alpha, double gamma, double scale, double* out) {
  others_in_form(is_loss, is_two, x, alpha, gamma, scale, out);
}

ANCHOR_EXT_CLONES static float sum_of(float* numbers) { return sum_by_pairs(numbers); }
ANCHOR_EXT_CLONES static double sum_of(double* numbers) { return sum_by_pairs(numbers); }

namespace {

// A group of one image's logits.
template <typename T>
class Groups {
 public:
  using C = Computed<T>;

  Groups(const Focal& focal, const FocalTensors<T>& tensors, const LabelBegins& begins)
      : focal_(focal),
        tensors_(tensors),
        begins_(begins),
        own_(static_cast<C>(alpha_own(focal))),
        other_(static_cast<C>(alpha_other(focal))),
        gamma_(static_cast<C>(focal.gamma)) {}

  // Losses, or derivatives times a scale, of the group's logits; 0 of anchors that take no part, and behind the last.
  template <bool kLoss>
  const C* shares(std::int32_t image, std::int64_t first, C scale) {
    const std::int64_t count = std::min<std::int64_t>(kGroup, logits_of_image(focal_) - first);
    const T* const logits = tensors_.logits + image * logits_of_image(focal_) + first;
    const C* x = in_;
    if (std::is_same_v<T, C> && count == kGroup) {
      x = reinterpret_cast<const C*>(logits);
    } else {
      for (std::int64_t i = 0; i < count; ++i) in_[i] = computed(logits[i]);
      std::fill(in_ + count, in_ + kGroup, C{0});
    }
    others(kLoss, focal_.gamma == 2, x, other_, gamma_, scale, out_);
    std::fill(out_ + count, out_ + kGroup, C{0});
    const std::int64_t classes = focal_.classes;
    for (std::int64_t anchor = first / classes; anchor * classes < first + count; ++anchor) {
      const std::int64_t matched = tensors_.matched[image * focal_.anchors + anchor], begin = anchor * classes - first;
      if (matched == kIgnoredAnchor) {
        std::fill(out_ + std::max<std::int64_t>(begin, 0), out_ + std::min(begin + classes, count), C{0});
      } else if (matched >= 0) {
        const std::int64_t at = begin + tensors_.labels[begins_.begins[image] + matched];
        if (at < 0 || at >= count) continue;
        const C share = focal_.gamma == 2 ? share_of<kLoss, true>(x[at], true, own_, other_, gamma_)
                                          : share_of<kLoss, false>(x[at], true, own_, other_, gamma_);
        out_[at] = share * scale;
      }
    }
    return out_;
  }

  C sum(std::int32_t image, std::int64_t first) {
    shares<true>(image, first, C{1});
    return sum_of(out_);
  }

 private:
  const Focal& focal_;
  const FocalTensors<T>& tensors_;
  const LabelBegins& begins_;
  const C own_, other_, gamma_;
  alignas(64) C in_[kGroup], out_[kGroup];
};

// Calls per_group(image, tile, first logit) for the groups of some tiles.
template <typename PerGroup>
void for_groups(const Focal& focal, std::int64_t begin, std::int64_t end, const PerGroup& per_group) {
  const std::int64_t tiles = tiles_of_image(focal), logits = logits_of_image(focal);
  for (std::int64_t tile = begin; tile < end; ++tile) {
    const std::int64_t first = tile % tiles * kGroup * kGroupsOfTile;
    const std::int64_t last = std::min<std::int64_t>(first + kGroup * kGroupsOfTile, logits);
    for (std::int64_t at = first; at < last; at += kGroup) per_group(static_cast<std::int32_t>(tile / tiles), tile, at);
  }
}

}  // namespace

template <typename T>
void focal_tiles_cpu(const Focal& focal, const FocalTensors<T>& tensors, const LabelBegins& begins, double* sums,
                     std::int64_t begin, std::int64_t end) {
  Groups<T> groups(focal, tensors, begins);
  std::fill(sums + begin, sums + end, 0.0);
  for_groups(focal, begin, end, [&](std::int32_t image, std::int64_t tile, std::int64_t first) {
    sums[tile] += double{groups.sum(image, first)};
  });
}

template <typename T>
void focal_finish_cpu(const Focal& focal, const std::int64_t* matched, const double* sums,
                      const FocalResult<T>& result) {
  const std::int64_t tiles = tiles_of_image(focal);
  double loss = 0;
  for (std::int32_t image = 0; image < focal.images; ++image) {
    double lanes[kLanes] = {};
    for (std::int64_t tile = 0; tile < tiles; ++tile) lanes[tile % kLanes] += sums[image * tiles + tile];
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    const std::int64_t* const own = matched + image * focal.anchors;
    const auto positives = std::count_if(own, own + focal.anchors, [](std::int64_t index) { return index >= 0; });
    result.weights[image] = weight_of(focal, positives);
    loss += lanes[0] * result.weights[image];
  }
  *result.loss = static_cast<Computed<T>>(loss);
}

template <typename T>
void focal_gradient_cpu(const Focal& focal, const FocalTensors<T>& tensors, const LabelBegins& begins,
                        const Computed<T>* grad, const double* weights, T* out, std::int64_t begin, std::int64_t end) {
  Groups<T> groups(focal, tensors, begins);
  for_groups(focal, begin, end, [&](std::int32_t image, std::int64_t, std::int64_t first) {
    const auto scale = static_cast<Computed<T>>(double{*grad} * weights[image]);
    const Computed<T>* const shares = groups.template shares<false>(image, first, scale);
    const std::int64_t count = std::min<std::int64_t>(kGroup, logits_of_image(focal) - first);
    T* const to = out + image * logits_of_image(focal) + first;
    for (std::int64_t i = 0; i < count; ++i) to[i] = round_to<T>(shares[i]);
  });
}

#define ANCHOR_EXT_FOCAL(T)                                                                                      \
  template void focal_tiles_cpu(const Focal&, const FocalTensors<T>&, const LabelBegins&, double*, std::int64_t, \
                                std::int64_t);                                                                   \
  template void focal_finish_cpu<T>(const Focal&, const std::int64_t*, const double*, const FocalResult<T>&);    \
  template void focal_gradient_cpu(const Focal&, const FocalTensors<T>&, const LabelBegins&, const Computed<T>*, \
                                   const double*, T*, std::int64_t, std::int64_t);
ANCHOR_EXT_FOCAL(float)
ANCHOR_EXT_FOCAL(double)
ANCHOR_EXT_FOCAL(Float16)
ANCHOR_EXT_FOCAL(BFloat16)
#undef ANCHOR_EXT_FOCAL

}  // namespace anchor_ext
