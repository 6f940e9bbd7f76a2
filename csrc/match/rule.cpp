#include "match/rule.h"

#include <charconv>
#include <limits>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "core/spec.h"

namespace anchor_ext {
namespace {

constexpr std::string_view kVersion = "match/1";
constexpr const char* kKeys =
    "thresholds, codes, nan, union, quotient, low_quality, anchors, least, needs_overlap, ignored, ignored_part, both";

constexpr std::pair<std::string_view, Quotient> kQuotients[] = {{"plain", Quotient::plain},
                                                                {"zero_if_apart", Quotient::zero_if_apart},
                                                                {"zero_if_nothing", Quotient::zero_if_nothing}};
constexpr std::pair<std::string_view, Gets> kGets[] = {
    {"nothing", Gets::nothing}, {"own", Gets::own}, {"last", Gets::last}, {"first", Gets::first}};
constexpr std::pair<std::string_view, bool> kAnchors[] = {{"all", false}, {"first", true}};
constexpr std::pair<std::string_view, bool> kParts[] = {{"anchor", false}, {"region", true}};
constexpr std::pair<std::string_view, bool> kAnswers[] = {{"no", false}, {"yes", true}};

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  for (;;) {
    const std::size_t end = text.find(separator);
    pieces.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return pieces;
    text.remove_prefix(end + 1);
  }
}

[[noreturn]] void reject_value(std::string_view key, std::string_view value, const std::string& expected) {
  reject("matcher: ", key, " is '", value.substr(0, 60), "'; expected ", expected);
}

template <typename T>
T number_of(std::string_view key, std::string_view text) {
  T value{};
  const auto [read, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || read != text.data() + text.size() || value != value) reject_value(key, text, "numbers");
  return value;
}

std::int64_t code_of(std::string_view key, std::string_view text) {
  if (text == "matched") return kMatched;
  const auto code = number_of<std::int64_t>(key, text);
  if (code >= 0 || code == kMatched) reject_value(key, text, "negative integers or matched");
  return code;
}

template <typename T, std::size_t kCount>
T choice_of(const std::pair<std::string_view, T> (&choices)[kCount], std::string_view key, std::string_view text) {
  std::string names;
  for (const auto& [name, choice] : choices) {
    if (name == text) return choice;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  reject_value(key, text, "one of " + names);
}

}  // namespace

Rule rule_of(std::string_view text) {
  Rule rule{};
  rule.code_of_nan = kMatched;
  rule.codes[0] = kMatched;
  const std::vector<std::string_view> entries = split(text, ';');
  if (entries[0] != kVersion) reject("matcher begins with '", entries[0].substr(0, 60), "'; expected ", kVersion);
  std::int32_t codes = 1;
  for (std::size_t i = 1; i < entries.size(); ++i) {
    const std::size_t equals = entries[i].find('=');
    const std::string_view key = entries[i].substr(0, equals);
    for (std::size_t other = 1; other < i; ++other)
      if (entries[other].substr(0, entries[other].find('=')) == key)
        reject("matcher has the key '", key.substr(0, 60), "' again; expected it once");
    const std::string_view value = equals == std::string_view::npos ? "" : entries[i].substr(equals + 1);
    if (key == "thresholds") {
      for (const std::string_view number : split(value, ',')) {
        if (rule.num_thresholds == kMaxThresholds) reject_value(key, value, "at most 8 numbers");
        const double threshold = number_of<double>(key, number);
        if (rule.num_thresholds > 0 && threshold < rule.thresholds[rule.num_thresholds - 1])
          reject_value(key, value, "ascending numbers");
        rule.thresholds[rule.num_thresholds++] = threshold;
      }
    } else if (key == "codes") {
      codes = 0;
      for (const std::string_view code : split(value, ',')) {
        if (codes > kMaxThresholds) reject_value(key, value, "at most 9 codes");
        rule.codes[codes++] = code_of(key, code);
      }
    } else if (key == "nan") {
      rule.code_of_nan = code_of(key, value);
    } else if (key == "union") {
      rule.least_union = number_of<double>(key, value);
    } else if (key == "quotient") {
      rule.quotient = choice_of(kQuotients, key, value);
    } else if (key == "low_quality") {
      rule.gets = choice_of(kGets, key, value);
    } else if (key == "anchors") {
      rule.only_first = choice_of(kAnchors, key, value);
    } else if (key == "least") {
      rule.least = number_of<double>(key, value);
    } else if (key == "needs_overlap") {
      rule.needs_overlap = choice_of(kAnswers, key, value);
    } else if (key == "ignored") {
      rule.ignored_from = number_of<double>(key, value);
      if (rule.ignored_from < 0) reject_value(key, value, "a number >= 0");
    } else if (key == "ignored_part") {
      rule.part_of_region = choice_of(kParts, key, value);
    } else if (key == "both") {
      rule.both = choice_of(kAnswers, key, value);
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
