// Texts of entries, "name/1;key=value;...", as the operators take rules and coders. Throws std::invalid_argument.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace anchor_ext {

// `argument` is what errors name.
struct Entry {
  const char* argument;
  std::string_view key, value;

  [[noreturn]] void refuse(const std::string& expected) const;
};

// Those after the version, with which the text begins; each key once.
std::vector<Entry> entries_of(const char* argument, std::string_view version, std::string_view text);

std::vector<std::string_view> split(std::string_view text, char separator);

template <typename T>
T number_of(const Entry& entry, std::string_view text);  // double or std::int64_t; not NaN
double number_of(const Entry& entry);
std::vector<double> numbers_of(const Entry& entry);

template <typename T>
using Choices = std::pair<std::string_view, T>;

template <typename T, std::size_t kCount>
T choice_of(const Choices<T> (&choices)[kCount], const Entry& entry) {
  std::string names;
  for (const auto& [name, choice] : choices) {
    if (name == entry.value) return choice;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  entry.refuse("one of " + names);
}

inline constexpr Choices<bool> kAnswers[] = {{"no", false}, {"yes", true}};

}  // namespace anchor_ext
