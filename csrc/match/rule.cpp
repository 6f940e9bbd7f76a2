#include "match/rule.h"

#include <vector>

#include "core/entries.h"
#include "core/spec.h"

namespace anchor_ext {
namespace {

constexpr std::string_view kVersion = "match/1";
constexpr const char* kKeys =
    "thresholds, codes, nan, union, quotient, low_quality, anchors, least, needs_overlap, ignored, ignored_part, both";

constexpr Choices<Quotient> kQuotients[] = {{"plain", Quotient::plain},
                                            {"zero_if_apart", Quotient::zero_if_apart},
                                            {"zero_if_nothing", Quotient::zero_if_nothing}};
constexpr Choices<Gets> kGets[] = {
    {"nothing", Gets::nothing}, {"own", Gets::own}, {"last", Gets::last}, {"first", Gets::first}};
constexpr Choices<bool> kAnchors[] = {{"all", false}, {"first", true}};
constexpr Choices<bool> kParts[] = {{"anchor", false}, {"region", true}};

std::int64_t code_of(const Entry& entry, std::string_view text) {
  if (text == "matched") return kMatched;
  const auto code = number_of<std::int64_t>(entry, text);
  if (code >= 0 || code == kMatched) Entry{entry.argument, entry.key, text}.refuse("negative integers or matched");
  return code;
}

}  // namespace

Rule rule_of(std::string_view text) {
  Rule rule{};
  rule.code_of_nan = kMatched;
  rule.codes[0] = kMatched;
  std::int32_t codes = 1;
  for (const Entry& entry : entries_of("matcher", kVersion, text)) {
    const std::string_view key = entry.key;
    if (key == "thresholds") {
      for (const double threshold : numbers_of(entry)) {
        if (rule.num_thresholds == kMaxThresholds) entry.refuse("at most 8 numbers");
        if (rule.num_thresholds > 0 && threshold < rule.thresholds[rule.num_thresholds - 1])
          entry.refuse("ascending numbers");
        rule.thresholds[rule.num_thresholds++] = threshold;
      }
    } else if (key == "codes") {
      codes = 0;
      for (const std::string_view code : split(entry.value, ',')) {
        if (codes > kMaxThresholds) entry.refuse("at most 9 codes");
        rule.codes[codes++] = code_of(entry, code);
      }
    } else if (key == "nan") {
      rule.code_of_nan = code_of(entry, entry.value);
    } else if (key == "union") {
      rule.least_union = number_of(entry);
    } else if (key == "quotient") {
      rule.quotient = choice_of(kQuotients, entry);
    } else if (key == "low_quality") {
      rule.gets = choice_of(kGets, entry);
    } else if (key == "anchors") {
      rule.only_first = choice_of(kAnchors, entry);
    } else if (key == "least") {
      rule.least = number_of(entry);
    } else if (key == "needs_overlap") {
      rule.needs_overlap = choice_of(kAnswers, entry);
    } else if (key == "ignored") {
      rule.ignored_from = number_of(entry);
      if (rule.ignored_from < 0) entry.refuse("a number >= 0");
    } else if (key == "ignored_part") {
      rule.part_of_region = choice_of(kParts, entry);
    } else if (key == "both") {
      rule.packs_bin = choice_of(kAnswers, entry);
    } else {
      reject("matcher has the key '", key.substr(0, 60), "'; expected one of ", kKeys);
    }
  }
  if (codes != rule.num_thresholds + 1)
    reject("matcher has ", codes, " codes; expected ", rule.num_thresholds + 1, ", one more than thresholds");
  if (rule.only_first && rule.gets == Gets::own)
    reject("matcher: anchors is 'first' and low_quality 'own'; expected low_quality last or first");
  return rule;
}

}  // namespace anchor_ext
