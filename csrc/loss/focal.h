// The sigmoid focal loss of logits, straight from what matching gave: no targets, no copy of the rows that take part.
//
// Of a logit x with s = x where its class is not the anchor's, and s = -x where it is, and with q = sigmoid(s):
// loss = alpha q**gamma log(1 + e**s), with alpha or 1 - alpha (Lin et al., "Focal loss for dense object detection",
// 2017; s is the way away from the truth). Its derivative by s is alpha q**gamma (gamma (1 - q) log(1 + e**s) + q).
//
// An image's logits [anchors, classes] are taken in groups of 256, whose losses are added by pairs, in the logits'
// arithmetic; the sums of groups are added in float64, in their order. So the sum is the same on a device as on the
// CPU, and by any number of threads.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/pyramid.h"
#include "loss/elementary.h"

namespace anchor_ext {

inline constexpr int kGroup = 256;                  // logits whose losses are added by pairs
inline constexpr int kGroupsOfTile = 64;            // of which a thread, or a block, adds the sums
inline constexpr int kLanes = 32;                   // the sums of tiles are added in so many, and these by pairs
inline constexpr int kMaxLossImages = 2048;         // of one call: where their labels begin goes along with a launch
inline constexpr std::int64_t kIgnoredAnchor = -2;  // takes no part

struct Focal {
  std::int64_t anchors, classes;
  std::int32_t images;
  double alpha, gamma;  // alpha < 0: both kinds of classes weigh 1
  bool normalize;       // each image's sum by its positives, at least 1; and the mean of the images
  Divider by_classes;
};

// Where each image's labels begin among all; and where the last ones end.
struct LabelBegins {
  std::int32_t begins[kMaxLossImages + 1];
};

ANCHOR_EXT_HD std::int64_t logits_of_image(const Focal& focal) { return focal.anchors * focal.classes; }
ANCHOR_EXT_HD std::int64_t tiles_of_image(const Focal& focal) {
  return (logits_of_image(focal) + kGroup * kGroupsOfTile - 1) / (kGroup * kGroupsOfTile);
}

// The arithmetic of logits: that of float32 for 16 bits.
template <typename T>
using Computed = std::conditional_t<std::is_same_v<T, double>, double, float>;

ANCHOR_EXT_HD float computed(float value) { return value; }
ANCHOR_EXT_HD double computed(double value) { return value; }
ANCHOR_EXT_HD float computed(Float16 value) { return widened(value); }
ANCHOR_EXT_HD float computed(BFloat16 value) { return widened(value); }

// What loss and derivative share.
template <typename C>
struct Term {
  C weight, q, not_q, softplus;  // alpha q**gamma; sigmoid(s); 1 - q; log(1 + e**s)

  ANCHOR_EXT_HD C loss() const { return weight * softplus; }
  ANCHOR_EXT_HD C derivative(C gamma) const { return weight * (gamma * not_q * softplus + q); }
};

// By the bits, since compilers make no vectors of what depends on a comparison of floating-point numbers.
ANCHOR_EXT_HD bool is_negative(float value) { return static_cast<std::int32_t>(bits_of(value)) < 0; }
ANCHOR_EXT_HD bool is_negative(double value) { return bits_of(value) < 0; }
ANCHOR_EXT_HD float negative_magnitude(float value) { return float_of(bits_of(value) | 0x80000000u); }
ANCHOR_EXT_HD double negative_magnitude(double value) { return double_of(bits_of(value) | INT64_MIN); }

// `kTwo`: gamma is 2, as it nearly always is.
template <bool kTwo, typename C>
ANCHOR_EXT_HD Term<C> term_of(C s, C alpha, C gamma) {
  const C down = negative_magnitude(s), e = exp_of_negative(down);
  const C greater = C{1} / (C{1} + e), less = e * greater, log1p = log1p_of_part(e);
  const bool is_toward = is_negative(s);
  Term<C> term;
  term.q = is_toward ? less : greater;
  term.not_q = is_toward ? greater : less;
  term.softplus = (C{0.5} * s - C{0.5} * down) + log1p;  // the difference is s or 0, or no number
  if constexpr (kTwo) {
    term.weight = alpha * (term.q * term.q);
  } else {
    const C power = exp_of_negative(gamma * ((C{0.5} * s + C{0.5} * down) - log1p));
    term.weight = alpha * power;
  }
  return term;
}

template <typename T>
struct FocalTensors {
  const T* logits;              // [images, anchors, classes]
  const std::int64_t* matched;  // [images, anchors]: the index of a label among the image's, or negative
  const std::int64_t* labels;   // of all images
};

// What of the loss or of its derivative a logit adds. `kLoss` says which.
template <bool kLoss, bool kTwo, typename C>
ANCHOR_EXT_HD C share_of(C x, bool is_own, C alpha_own, C alpha_other, C gamma) {
  const Term<C> term = term_of<kTwo>(is_own ? -x : x, is_own ? alpha_own : alpha_other, gamma);
  if constexpr (kLoss) return term.loss();
  return is_own ? -term.derivative(gamma) : term.derivative(gamma);
}

ANCHOR_EXT_HD double alpha_own(const Focal& focal) { return focal.alpha < 0 ? 1 : focal.alpha; }
ANCHOR_EXT_HD double alpha_other(const Focal& focal) { return focal.alpha < 0 ? 1 : 1 - focal.alpha; }

// Of an image with so many positives: what its sum is multiplied by.
ANCHOR_EXT_HD double weight_of(const Focal& focal, std::int64_t positives) {
  if (!focal.normalize) return 1;
  return 1.0 / static_cast<double>(positives > 1 ? positives : 1) / static_cast<double>(focal.images);
}

// The loss, and [images] what each image's sum was multiplied by.
template <typename T>
struct FocalResult {
  Computed<T>* loss;
  double* weights;
};

// On the calling thread: the sums of some tiles, of all images one after another; what becomes of all sums; and the
// derivatives of some tiles' logits.
template <typename T>
void focal_tiles_cpu(const Focal& focal, const FocalTensors<T>& tensors, const LabelBegins& begins, double* sums,
                     std::int64_t begin, std::int64_t end);
template <typename T>
void focal_finish_cpu(const Focal& focal, const std::int64_t* matched, const double* sums,
                      const FocalResult<T>& result);
template <typename T>
void focal_gradient_cpu(const Focal& focal, const FocalTensors<T>& tensors, const LabelBegins& begins,
                        const Computed<T>* grad, const double* weights, T* out, std::int64_t begin, std::int64_t end);

// On `stream`: two launches, and one. `sums` and `positives` are memory of the device, a number each per tile.
template <typename T>
void focal_cuda(const Focal& focal, const FocalTensors<T>& tensors, const LabelBegins& begins, double* sums,
                std::int32_t* positives, const FocalResult<T>& result, int device, void* stream);
template <typename T>
void focal_gradient_cuda(const Focal& focal, const FocalTensors<T>& tensors, const LabelBegins& begins,
                         const Computed<T>* grad, const double* weights, T* out, int device, void* stream);

}  // namespace anchor_ext
