#include "core/coder.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "core/entries.h"
#include "core/spec.h"

namespace anchor_ext {
namespace {

constexpr std::string_view kVersion = "coder/1";
constexpr const char* kKeys =
    "weights, means, stds, max_log_ratio, limits_small, max_shift, centres, clip, order, min_side, addend";

struct Centres {
  bool decode, encode;
};
constexpr Choices<Centres> kCentres[] = {
    {"low_and_side", {false, false}}, {"ends", {true, true}}, {"ends_decoded", {true, false}}};
constexpr Choices<Limited> kLimited[] = {
    {"no", Limited::not_at_all}, {"image", Limited::both_ends}, {"outer_ends", Limited::outer_ends}};
constexpr Choices<bool> kOrders[] = {{"xywh", false}, {"yxhw", true}};

void four_of(const Entry& entry, double (&numbers)[4]) {
  const std::vector<double> given = numbers_of(entry);
  if (given.size() != 4) entry.refuse("four numbers, of x, y, w, h");
  std::copy(given.begin(), given.end(), numbers);
}

double from_0_on(const Entry& entry) {
  const double number = number_of(entry);
  if (!(number >= 0)) entry.refuse("a number >= 0");
  return number;
}

}  // namespace

Coder coder_of(std::string_view text) {
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  Coder coder{};
  std::fill(coder.scales, coder.scales + 4, 1.0);
  coder.most_size = coder.most_shift = kInfinite;
  coder.least_side = -kInfinite;
  coder.limited = Limited::both_ends;
  bool has_weights = false, has_moments = false;
  for (const Entry& entry : entries_of("coder", kVersion, text)) {
    const std::string_view key = entry.key;
    if (key == "weights" || key == "stds") {
      four_of(entry, coder.scales);
      if (!std::all_of(coder.scales, coder.scales + 4, [](double n) { return n > 0 && n < kInfinite; }))
        entry.refuse("four finite numbers > 0");
      (key == "weights" ? has_weights : has_moments) = true;
    } else if (key == "means") {
      four_of(entry, coder.means);
      has_moments = true;
    } else if (key == "max_log_ratio") {
      coder.most_size = from_0_on(entry);
    } else if (key == "limits_small") {
      coder.limits_small = choice_of(kAnswers, entry);
    } else if (key == "max_shift") {
      coder.most_shift = from_0_on(entry);
    } else if (key == "centres") {
      const Centres centres = choice_of(kCentres, entry);
      coder.means_of_ends_decode = centres.decode;
      coder.means_of_ends_encode = centres.encode;
    } else if (key == "clip") {
      coder.limited = choice_of(kLimited, entry);
    } else if (key == "order") {
      coder.y_first = choice_of(kOrders, entry);
    } else if (key == "min_side") {
      const double least = from_0_on(entry);
      if (least > 0) coder.least_side = least;  // sides below 0 are none's business otherwise
    } else if (key == "addend") {
      coder.addend = from_0_on(entry);
    } else {
      reject("coder has the key '", key.substr(0, 60), "'; expected one of ", kKeys);
    }
  }
  if (has_weights && has_moments) reject("coder has weights, and means or stds; expected one or the other");
  const bool are_ones = std::all_of(coder.scales, coder.scales + 4, [](double n) { return n == 1; });
  coder.scaling = has_moments ? Scaling::moments : are_ones ? Scaling::none : Scaling::weights;
  return coder;
}

}  // namespace anchor_ext
