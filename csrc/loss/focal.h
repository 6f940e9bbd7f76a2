// The sigmoid focal loss of logits, straight from what matching gave: no targets, no copy of the rows that take part.
//
// Of a logit x with s = x where its class is not the anchor's, and s = -x where it is, and with q = sigmoid(s):
// loss = alpha q**gamma log(1 + e**s), with alpha or 1 - alpha (Lin et al., "Focal loss for dense object detection",
// 2017; s is the way away from the truth). Its derivative by s is alpha q**gamma (gamma (1 - q) log(1 + e**s) + q).
//
// An image's logits are parts: one [anchors, classes], or a level's output of a head each, [cell anchors, classes,
// cells]. A part's are taken in groups of 256 as they lie in memory, whose losses are added by pairs, in the logits'
// arithmetic; the sums of groups are added in float64, in their order. So the sum is the same on a device as on the
// CPU, and by any number of threads.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "core/exp_log.h"
#include "core/pyramid.h"
#include "loss/sums.h"

namespace anchor_ext {

inline constexpr int kGroup = 256;        // logits whose losses are added by pairs
inline constexpr int kGroupsOfTile = 64;  // of which a thread, or a block, adds the sums
inline constexpr int kTile = kGroup * kGroupsOfTile;

// A level's logits, or all of them.
struct FocalPart {
  std::int64_t begin;         // flat index of its first anchor
  std::int64_t cells;         // of a head's output; 0 where the classes lie side by side
  std::int64_t cell_anchors;  // of its level; or all anchors
  std::int64_t first_tile;    // among the image's
  Divider by_cells;
};

struct Focal {
  std::int64_t anchors, classes, tiles;  // of an image
  std::int32_t images, num_parts;
  double alpha, gamma;  // alpha < 0: both kinds of classes weigh 1
  bool normalize;
  Divider by_classes;
  FocalPart parts[kMaxLevels];
};

ANCHOR_EXT_HD Summation summation_of(const Focal& focal) {
  return {focal.tiles, focal.anchors, focal.images, focal.normalize};
}
ANCHOR_EXT_HD std::int64_t logits_of_part(const Focal& focal, const FocalPart& part) {
  return part.cell_anchors * focal.classes * (part.cells == 0 ? 1 : part.cells);
}

// Where a logit of a part lies.
struct LogitPlace {
  std::int64_t anchor, own_class;
};
ANCHOR_EXT_HD LogitPlace place_of_logit(const Focal& focal, const FocalPart& part, std::int64_t at) {
  const std::int64_t channel = part.cells == 0 ? at : divide(at, part.by_cells);
  const std::int64_t row = divide(channel, focal.by_classes), own_class = channel - row * focal.classes;
  if (part.cells == 0) return {part.begin + row, own_class};
  return {part.begin + (at - channel * part.cells) * part.cell_anchors + row, own_class};
}

// A tile of an image.
struct FocalTile {
  std::int32_t part;
  std::int64_t first, end;  // logits of the part
};
ANCHOR_EXT_HD FocalTile tile_of(const Focal& focal, std::int64_t tile) {
  std::int32_t p = 0;
  while (p + 1 < focal.num_parts && tile >= focal.parts[p + 1].first_tile) ++p;
  const std::int64_t first = (tile - focal.parts[p].first_tile) * kTile, count = logits_of_part(focal, focal.parts[p]);
  return {p, first, first + kTile < count ? first + kTile : count};
}

// q = e / (1 + e), 1 - q and log(1 + e) of 0 <= e <= 1, by one division. The logarithm is 2 atanh(s) of s = e / (2 +
// e), whose series is cut where its terms are under 2e-8 (float32), 2e-20 (float64). What a sum loses of a small e
// comes back as q = e - e q and 2 s = e - e s.
template <typename C>
struct Part {
  C q, not_q, log1p;
};
ANCHOR_EXT_HD Part<float> part_of(float e) {
  const float a = e + 1.0f, b = e + 2.0f, r = 1.0f / (a * b);
  const float q = e - e * (e * (r * b));
  const float s = e * (r * a), twice = e - e * s, z = s * s, square = z * z;
  const float low = 0x1.555556p-2f + z * 0x1.99999ap-3f, middle = 0x1.24924ap-3f + z * 0x1.c71c72p-4f;
  const float high = 0x1.745d18p-4f + z * 0x1.3b13b2p-4f;
  return {q, 1.0f - q, twice + twice * (z * (low + square * (middle + square * high)))};
}
ANCHOR_EXT_HD Part<double> part_of(double e) {
  const double q = e / (1.0 + e), s = e / (e + 2.0);
  return {q, 1.0 - q, 2.0 * (s + s * (s * s * atanh_series<19, 1>(s * s)))};
}

// What loss and derivative share.
template <typename C>
struct Term {
  C power, q, not_q, softplus;  // q**gamma; sigmoid(s); 1 - q; log(1 + e**s)

  ANCHOR_EXT_HD C loss() const { return power * softplus; }
  ANCHOR_EXT_HD C derivative(C gamma) const { return power * (gamma * not_q * softplus + q); }
};

// By the bits, since compilers make no vectors of what depends on a comparison of floating-point numbers.
ANCHOR_EXT_HD bool is_negative(float value) { return static_cast<std::int32_t>(bits_of(value)) < 0; }
ANCHOR_EXT_HD bool is_negative(double value) { return bits_of(value) < 0; }
ANCHOR_EXT_HD float negative_magnitude(float value) { return float_of(bits_of(value) | 0x80000000u); }
ANCHOR_EXT_HD double negative_magnitude(double value) { return double_of(bits_of(value) | INT64_MIN); }

// `kTwo`: gamma is 2, as it nearly always is.
template <bool kTwo, typename C>
ANCHOR_EXT_HD Term<C> term_of(C s, C gamma) {
  const C down = negative_magnitude(s), e = exp_of_negative(down);
  const Part<C> part = part_of(e);
  const bool is_toward = is_negative(s);
  Term<C> term;
  term.q = is_toward ? part.q : part.not_q;
  term.not_q = is_toward ? part.not_q : part.q;
  term.softplus = (C{0.5} * s - C{0.5} * down) + part.log1p;  // the difference is s or 0, or NaN
  if constexpr (kTwo)
    term.power = term.q * term.q;
  else
    term.power = exp_of_negative(gamma * ((C{0.5} * s + C{0.5} * down) - part.log1p));
  return term;
}

template <typename T>
struct FocalTensors {
  const T* logits[kMaxLevels];  // of each part, [images, ...]
  const std::int64_t* matched;  // [images, anchors]: the index of a label among the image's, or negative
  const std::int64_t* labels;   // of all images
};

// What of the loss or of its derivative a logit adds, times a factor. `kLoss` says which.
template <bool kLoss, bool kTwo, typename C>
ANCHOR_EXT_HD C share_of(C x, bool is_own, C factor, C gamma) {
  const Term<C> term = term_of<kTwo>(is_own ? -x : x, gamma);
  if constexpr (kLoss) return term.loss() * factor;
  return (is_own ? -term.derivative(gamma) : term.derivative(gamma)) * factor;
}

ANCHOR_EXT_HD double alpha_own(const Focal& focal) { return focal.alpha < 0 ? 1 : focal.alpha; }
ANCHOR_EXT_HD double alpha_other(const Focal& focal) { return focal.alpha < 0 ? 1 : 1 - focal.alpha; }

// The anchors whose logits are not all of other classes: positives, and those that take no part. By image, part and
// cell anchor (of one part alone: all are one), in their order.
struct MarkedAnchors {
  struct Marked {
    std::int64_t at, matched;  // cell, or anchor
  };
  std::vector<std::vector<Marked>> lists;
  std::vector<std::size_t> first_lists;  // of each part, in an image
  std::size_t lists_of_image;
};
MarkedAnchors marked_anchors(const Focal& focal, const std::int64_t* matched);

// On the calling thread: the sums of some tiles, of all images one after another; and the derivatives of some tiles'
// logits.
template <typename T>
void focal_tiles_cpu(const Focal& focal, const FocalTensors<T>& tensors, const BoxBegins& begins,
                     const MarkedAnchors& marked, double* sums, std::int64_t begin, std::int64_t end);
template <typename T>
void focal_gradient_cpu(const Focal& focal, const FocalTensors<T>& tensors, const BoxBegins& begins,
                        const MarkedAnchors& marked, const Computed<T>* grad, const double* weights, T* const* out,
                        std::int64_t begin, std::int64_t end);

// On `stream`, one launch each. `sums` and `positives` are memory of the device, a number each per tile; `out` [parts].
template <typename T>
void focal_tiles_cuda(const Focal& focal, const FocalTensors<T>& tensors, const BoxBegins& begins, double* sums,
                      std::int32_t* positives, int device, void* stream);
template <typename T>
void focal_gradient_cuda(const Focal& focal, const FocalTensors<T>& tensors, const BoxBegins& begins,
                         const Computed<T>* grad, const double* weights, T* const* out, int device, void* stream);

}  // namespace anchor_ext
