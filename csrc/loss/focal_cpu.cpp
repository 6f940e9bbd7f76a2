// The focal loss on the CPU: of each group all logits as if they were of other classes, in vectors; then those few are
// computed again that are of an anchor's own class, and those of anchors that take no part are left out.
#include <algorithm>
#include <utility>
#include <vector>

#include "core/clones.h"
#include "loss/focal.h"

namespace anchor_ext {
namespace {

template <bool kLoss, bool kTwo, typename C>
ANCHOR_EXT_INLINE void others_of(const C* __restrict x, C factor, C gamma, C* __restrict out) {
  for (int i = 0; i < kGroup; ++i) out[i] = share_of<kLoss, kTwo>(x[i], false, factor, gamma);
}

template <typename C>
ANCHOR_EXT_INLINE void others_in_form(bool is_loss, bool is_two, const C* x, C factor, C gamma, C* out) {
  if (is_loss)
    is_two ? others_of<true, true>(x, factor, gamma, out) : others_of<true, false>(x, factor, gamma, out);
  else
    is_two ? others_of<false, true>(x, factor, gamma, out) : others_of<false, false>(x, factor, gamma, out);
}

template <typename C>
ANCHOR_EXT_INLINE C sum_by_pairs(C* numbers) {
  for (int half = kGroup / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) numbers[i] += numbers[i + half];
  return numbers[0];
}

}  // namespace

ANCHOR_EXT_CLONES static void others(bool is_loss, bool is_two, const float* x, float factor, float gamma, float* out) {
  others_in_form(is_loss, is_two, x, factor, gamma, out);
}
static void others(bool is_loss, bool is_two, const double* x, double factor, double gamma, double* out) {
  others_in_form(is_loss, is_two, x, factor, gamma, out);
}

ANCHOR_EXT_CLONES static float sum_of(float* numbers) { return sum_by_pairs(numbers); }
ANCHOR_EXT_CLONES static double sum_of(double* numbers) { return sum_by_pairs(numbers); }

MarkedAnchors marked_anchors(const Focal& focal, const std::int64_t* matched) {
  MarkedAnchors marked{};
  for (std::int32_t p = 0; p < focal.num_parts; ++p) {
    marked.first_lists.push_back(marked.lists_of_image);
    marked.lists_of_image += focal.parts[p].cells == 0 ? 1 : static_cast<std::size_t>(focal.parts[p].cell_anchors);
  }
  marked.lists.resize(marked.lists_of_image * static_cast<std::size_t>(focal.images));
  for (std::int32_t image = 0; image < focal.images; ++image) {
    const std::int64_t* const of_image = matched + image * focal.anchors;
    for (std::int32_t p = 0; p < focal.num_parts; ++p) {
      const FocalPart& part = focal.parts[p];
      auto* const lists =
          marked.lists.data() + marked.lists_of_image * static_cast<std::size_t>(image) + marked.first_lists[p];
      const std::int64_t count = part.cell_anchors * (part.cells == 0 ? 1 : part.cells);
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t own = of_image[part.begin + i];
        if (own < 0 && own != kIgnoredAnchor) continue;
        const std::int64_t cell = part.cells == 0 ? i : i / part.cell_anchors;
        lists[part.cells == 0 ? 0 : i - cell * part.cell_anchors].push_back({cell, own});
      }
    }
  }
  return marked;
}

namespace {

// A group of a part's logits.
template <typename T>
class Groups {
 public:
  using C = Computed<T>;

  Groups(const Focal& focal, const FocalTensors<T>& tensors, const BoxBegins& begins, const MarkedAnchors& marked)
      : focal_(focal), tensors_(tensors), begins_(begins), marked_(marked), gamma_(static_cast<C>(focal.gamma)) {}

  // Losses, or derivatives times a scale, of the group's logits; 0 of anchors that take no part, and behind the last.
  template <bool kLoss>
  const C* shares(std::int32_t image, std::int32_t p, std::int64_t first, std::int64_t count, double scale) {
    const T* const logits = tensors_.logits[p] + image * logits_of_part(focal_, focal_.parts[p]) + first;
    const C* x = in_;
    if (std::is_same_v<T, C> && count == kGroup) {
      x = reinterpret_cast<const C*>(logits);
    } else {
      for (std::int64_t i = 0; i < count; ++i) in_[i] = widened(logits[i]);
      std::fill(in_ + count, in_ + kGroup, C{0});
    }
    others(kLoss, focal_.gamma == 2, x, static_cast<C>(alpha_other(focal_) * scale), gamma_, out_);
    const auto own = static_cast<C>(alpha_own(focal_) * scale);
    std::fill(out_ + count, out_ + kGroup, C{0});
    if (focal_.parts[p].cells == 0)
      mark_rows<kLoss>(image, p, first, count, x, own);
    else
      mark_channels<kLoss>(image, p, first, count, x, own);
    return out_;
  }

  C sum(std::int32_t image, std::int32_t p, std::int64_t first, std::int64_t count) {
    shares<true>(image, p, first, count, 1);
    return sum_of(out_);
  }

 private:
  using Marked = MarkedAnchors::Marked;

  // Those of a list from `at` on.
  std::pair<const Marked*, const Marked*> from(std::int32_t image, std::size_t list, std::int64_t at) const {
    const auto& all = marked_.lists[marked_.lists_of_image * static_cast<std::size_t>(image) + list];
    const Marked* const end = all.data() + all.size();
    return {std::lower_bound(all.data(), end, at, [](const Marked& one, std::int64_t to) { return one.at < to; }), end};
  }

  std::int64_t label_of(std::int32_t image, const Marked& one) const {
    return tensors_.labels[begins_.begins[image] + one.matched];
  }

  template <bool kLoss>
  void set_own(C x, C factor, C& out) const {
    out = focal_.gamma == 2 ? share_of<kLoss, true>(x, true, factor, gamma_)
                            : share_of<kLoss, false>(x, true, factor, gamma_);
  }

  template <bool kLoss>
  void mark_rows(std::int32_t image, std::int32_t p, std::int64_t first, std::int64_t count, const C* x, C factor) {
    const std::int64_t classes = focal_.classes;
    auto [one, end] = from(image, marked_.first_lists[static_cast<std::size_t>(p)], first / classes);
    for (; one != end && one->at * classes < first + count; ++one) {
      const std::int64_t begin = one->at * classes - first;
      if (one->matched == kIgnoredAnchor) {
        std::fill(out_ + std::max<std::int64_t>(begin, 0), out_ + std::min(begin + classes, count), C{0});
        continue;
      }
      const std::int64_t at = begin + label_of(image, *one);
      if (at >= 0 && at < count) set_own<kLoss>(x[at], factor, out_[at]);
    }
  }

  template <bool kLoss>
  void mark_channels(std::int32_t image, std::int32_t p, std::int64_t first, std::int64_t count, const C* x, C factor) {
    const FocalPart& part = focal_.parts[p];
    for (std::int64_t channel = first / part.cells; channel * part.cells < first + count; ++channel) {
      const std::int64_t cell_anchor = channel / focal_.classes, own_class = channel - cell_anchor * focal_.classes;
      const std::int64_t begin = channel * part.cells - first;  // of the channel's first cell in the group
      const std::int64_t last = std::min(part.cells, count - begin);
      auto [one, end] =
          from(image, marked_.first_lists[static_cast<std::size_t>(p)] + static_cast<std::size_t>(cell_anchor),
               std::max<std::int64_t>(-begin, 0));
      for (; one != end && one->at < last; ++one) {
        const std::int64_t at = begin + one->at;
        if (one->matched == kIgnoredAnchor)
          out_[at] = 0;
        else if (label_of(image, *one) == own_class)
          set_own<kLoss>(x[at], factor, out_[at]);
      }
    }
  }

  const Focal& focal_;
  const FocalTensors<T>& tensors_;
  const BoxBegins& begins_;
  const MarkedAnchors& marked_;
  const C gamma_;
  alignas(64) C in_[kGroup], out_[kGroup];
};

// Calls per_group(image, tile of all, part, first logit, how many) for the groups of some tiles.
template <typename PerGroup>
void for_groups(const Focal& focal, std::int64_t begin, std::int64_t end, const PerGroup& per_group) {
  for (std::int64_t tile = begin; tile < end; ++tile) {
    const std::int64_t image = tile / focal.tiles;
    const FocalTile at = tile_of(focal, tile - image * focal.tiles);
    for (std::int64_t first = at.first; first < at.end; first += kGroup)
      per_group(static_cast<std::int32_t>(image), tile, at.part, first, std::min<std::int64_t>(kGroup, at.end - first));
  }
}

}  // namespace

template <typename T>
void focal_tiles_cpu(const Focal& focal, const FocalTensors<T>& tensors, const BoxBegins& begins,
                     const MarkedAnchors& marked, double* sums, std::int64_t begin, std::int64_t end) {
  Groups<T> groups(focal, tensors, begins, marked);
  std::fill(sums + begin, sums + end, 0.0);
  for_groups(focal, begin, end,
             [&](std::int32_t image, std::int64_t tile, std::int32_t part, std::int64_t first, std::int64_t count) {
               sums[tile] += double{groups.sum(image, part, first, count)};
             });
}

template <typename T>
void focal_gradient_cpu(const Focal& focal, const FocalTensors<T>& tensors, const BoxBegins& begins,
                        const MarkedAnchors& marked, const Computed<T>* grad, const double* weights, T* const* out,
                        std::int64_t begin, std::int64_t end) {
  Groups<T> groups(focal, tensors, begins, marked);
  for_groups(focal, begin, end,
             [&](std::int32_t image, std::int64_t, std::int32_t part, std::int64_t first, std::int64_t count) {
               const double scale = double{*grad} * weights[image];
               const Computed<T>* const shares = groups.template shares<false>(image, part, first, count, scale);
               T* const to = out[part] + image * logits_of_part(focal, focal.parts[part]) + first;
               for (std::int64_t i = 0; i < count; ++i) to[i] = round_to<T>(shares[i]);
             });
}

#define ANCHOR_EXT_FOCAL(T)                                                                                            \
  template void focal_tiles_cpu(const Focal&, const FocalTensors<T>&, const BoxBegins&, const MarkedAnchors&, double*, \
                                std::int64_t, std::int64_t);                                                           \
  template void focal_gradient_cpu(const Focal&, const FocalTensors<T>&, const BoxBegins&, const MarkedAnchors&,       \
                                   const Computed<T>*, const double*, T* const*, std::int64_t, std::int64_t);
ANCHOR_EXT_FOCAL(float)
ANCHOR_EXT_FOCAL(double)
ANCHOR_EXT_FOCAL(Float16)
ANCHOR_EXT_FOCAL(BFloat16)
#undef ANCHOR_EXT_FOCAL

}  // namespace anchor_ext
