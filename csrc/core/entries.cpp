#include "core/entries.h"

#include <charconv>
#include <cstdint>
#include <system_error>

#include "core/spec.h"

namespace anchor_ext {

void Entry::refuse(const std::string& expected) const {
  reject(argument, ": ", key, " is '", value.substr(0, 60), "'; expected ", expected);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  for (;;) {
    const std::size_t end = text.find(separator);
    pieces.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return pieces;
    text.remove_prefix(end + 1);
  }
}

std::vector<Entry> entries_of(const char* argument, std::string_view version, std::string_view text) {
  const std::vector<std::string_view> pieces = split(text, ';');
  if (pieces[0] != version) reject(argument, " begins with '", pieces[0].substr(0, 60), "'; expected ", version);
  std::vector<Entry> entries;
  for (std::size_t i = 1; i < pieces.size(); ++i) {
    const std::size_t equals = pieces[i].find('=');
    const std::string_view value = equals == std::string_view::npos ? "" : pieces[i].substr(equals + 1);
    const Entry entry{argument, pieces[i].substr(0, equals), value};
    for (const Entry& other : entries)
      if (other.key == entry.key)
        reject(argument, " has the key '", entry.key.substr(0, 60), "' again; expected it once");
    entries.push_back(entry);
  }
  return entries;
}

template <typename T>
T number_of(const Entry& entry, std::string_view text) {
  T value{};
  const auto [read, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || read != text.data() + text.size() || value != value)
    Entry{entry.argument, entry.key, text}.refuse("numbers");
  return value;
}
template double number_of(const Entry&, std::string_view);
template std::int64_t number_of(const Entry&, std::string_view);

double number_of(const Entry& entry) { return number_of<double>(entry, entry.value); }

std::vector<double> numbers_of(const Entry& entry) {
  std::vector<double> numbers;
  for (const std::string_view text : split(entry.value, ',')) numbers.push_back(number_of<double>(entry, text));
  return numbers;
}

}  // namespace anchor_ext
