// The spec's text: read, and written in its canonical form. docs/operators.md has the grammar.
#include <charconv>
#include <cmath>
#include <system_error>
#include <utility>

#include "core/spec.h"

namespace anchor_ext {
namespace {

constexpr std::string_view kVersion = "anchors/1";
constexpr const char* kKeys = "layout, arithmetic, levels, strides, offsets, starts, cell_anchors";

constexpr std::pair<std::string_view, Dtype> kDtypes[] = {{"float64", Dtype::float64},
                                                          {"float32", Dtype::float32},
                                                          {"float16", Dtype::float16},
                                                          {"bfloat16", Dtype::bfloat16}};
constexpr std::pair<std::string_view, Layout> kLayouts[] = {
    {"xyxy", kXyxy}, {"yxyx", kYxyx}, {"cxcywha", kCxcywha}, {"point", kPoint}, {"point_stride", kPointStride}};

// A piece of the text, which knows where it lies.
struct Piece {
  std::string_view whole, text;

  std::size_t position() const { return static_cast<std::size_t>(text.data() - whole.data()); }
  std::string quoted() const {
    return "'" + std::string(text.substr(0, 60)) + (text.size() > 60 ? "..." : "") + "' at character " +
           std::to_string(position());
  }

  // What lies between separators: one piece at least, and empty ones as well.
  std::vector<Piece> split(char separator) const {
    std::vector<Piece> pieces;
    for (std::string_view rest = text;;) {
      const std::size_t end = rest.find(separator);
      pieces.push_back({whole, rest.substr(0, end)});
      if (end == std::string_view::npos) return pieces;
      rest.remove_prefix(end + 1);
    }
  }
};

// Any decimal or hexadecimal float, in no locale.
double number_of(const std::string& name, const Piece& piece) {
  std::string_view digits = piece.text;
  const bool negative = !digits.empty() && digits[0] == '-';
  if (!digits.empty() && (digits[0] == '-' || digits[0] == '+')) digits.remove_prefix(1);
  const bool hexadecimal = digits.size() > 2 && digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X');
  if (hexadecimal) digits.remove_prefix(2);
  double value = 0;
  const char* const end = digits.data() + digits.size();
  const auto format = hexadecimal ? std::chars_format::hex : std::chars_format::general;
  const auto [read, error] = std::from_chars(digits.data(), end, value, format);
  const bool has_sign = !digits.empty() && digits[0] == '-';  // a second one
  if (error != std::errc() || read != end || has_sign)
    reject("spec: ", name, " has ", piece.quoted(), "; expected a number that float64 holds");
  return negative ? -value : value;
}

std::vector<Pair> pairs_of(const std::string& name, const Piece& value) {
  std::vector<Pair> pairs;
  for (const Piece& piece : value.split(' ')) {
    const std::vector<Piece> numbers = piece.split(',');
    if (numbers.size() != 2) reject("spec: ", name, " has ", piece.quoted(), "; expected two numbers y,x per level");
    pairs.push_back({number_of(name, numbers[0]), number_of(name, numbers[1])});
  }
  return pairs;
}

std::vector<std::int64_t> levels_of(const Piece& value) {
  std::vector<std::int64_t> levels;
  for (const Piece& piece : value.split(' ')) {
    std::int64_t level = 0;
    const char* const end = piece.text.data() + piece.text.size();
    const auto [read, error] = std::from_chars(piece.text.data(), end, level);
    if (error != std::errc() || read != end) reject("spec: levels has ", piece.quoted(), "; expected integers");
    levels.push_back(level);
  }
  return levels;
}

std::vector<std::vector<double>> cell_anchors_of(const Piece& value, std::int32_t components) {
  std::vector<std::vector<double>> levels;
  for (const Piece& level : value.split('|')) {
    levels.emplace_back();
    for (const Piece& cell_anchor : level.split(' ')) {
      const std::vector<Piece> numbers = cell_anchor.split(',');
      if (numbers.size() != static_cast<std::size_t>(components))
        reject("spec: cell_anchors[", levels.size() - 1, "] has ", cell_anchor.quoted(), "; expected ", components,
               " numbers per cell anchor");
      for (const Piece& number : numbers) levels.back().push_back(number_of("cell_anchors", number));
    }
  }
  return levels;
}

// An integer where that is short and exact, else the shortest hexadecimal float.
void write(std::string& text, double number) {
  char digits[64];
  char* const end = digits + sizeof digits;
  if (std::signbit(number)) text += '-';
  const double magnitude = std::abs(number);
  if (magnitude < 0x1p53 && magnitude == std::floor(magnitude)) {
    text.append(digits, std::to_chars(digits, end, static_cast<std::int64_t>(magnitude)).ptr);
  } else {
    if (std::isfinite(magnitude)) text += "0x";
    text.append(digits, std::to_chars(digits, end, magnitude, std::chars_format::hex).ptr);
  }
}

void write(std::string& text, const char* key, const std::vector<Pair>& pairs, Pair absent) {
  bool is_default = true;
  for (const auto [y, x] : pairs)
    is_default = is_default && y == absent.y && x == absent.x && !std::signbit(y) && !std::signbit(x);
  if (is_default) return;
  for (std::size_t l = 0; l < pairs.size(); ++l) {
    text += l == 0 ? key : " ";
    write(text, pairs[l].y);
    text += ',';
    write(text, pairs[l].x);
  }
}

}  // namespace

Dtype dtype_of(std::string_view name) {
  for (const auto& [known, dtype] : kDtypes)
    if (name == known) return dtype;
  reject("dtype is '", name, "'; expected float32, float64, float16 or bfloat16");
}

Layout layout_of(std::string_view name) {
  for (const auto& [known, layout] : kLayouts)
    if (name == known) return layout;
  reject("layout is '", name, "'; expected xyxy, yxyx, cxcywha, point or point_stride");
}

Arithmetic arithmetic_of(std::string_view name) {
  const std::vector<Piece> parts = Piece{name, name}.split('/');
  const std::string_view position = parts[0].text;
  const Grid grid = position == "quotient" ? Grid::quotient : position == "arange" ? Grid::arange : Grid::product;
  Dtype dtypes[3] = {Dtype::float32, Dtype::float32, Dtype::float32};
  bool good = parts.size() == 1 || parts.size() == 3;
  for (std::size_t i = grid == Grid::product ? 0 : 1; good && i < parts.size(); ++i) {
    good = false;
    for (const auto& [known, dtype] : kDtypes)
      if (parts[i].text == known) dtypes[i] = dtype, good = true;
  }
  if (!good)
    reject("arithmetic is '", name,
           "'; expected float64, float32, float16, bfloat16, arange or quotient, or position/centre/sum of them");
  if (parts.size() == 1) dtypes[1] = dtypes[2] = dtypes[0];
  return {grid, dtypes[0], dtypes[1], dtypes[2]};
}

SpecParts parts_of(std::string_view text) {
  const std::vector<Piece> entries = Piece{text, text}.split(';');
  if (entries[0].text != kVersion)
    reject("spec begins with ", entries[0].quoted(), "; expected ", kVersion, ", the version that is known here");
  SpecParts parts;
  std::vector<std::string_view> seen;
  Piece cell_anchors{text, {}};  // read last: the layout says how many numbers each has
  for (std::size_t i = 1; i < entries.size(); ++i) {
    const std::size_t equals = entries[i].text.find('=');
    if (equals == std::string_view::npos) reject("spec has ", entries[i].quoted(), "; expected key=value");
    const std::string_view key = entries[i].text.substr(0, equals);
    const Piece value{text, entries[i].text.substr(equals + 1)};
    for (const std::string_view other : seen)
      if (key == other) reject("spec has the key ", entries[i].quoted(), " again; expected it once");
    seen.push_back(key);
    if (key == "layout")
      parts.layout = value.text;
    else if (key == "arithmetic")
      parts.arithmetic = value.text;
    else if (key == "levels")
      parts.pyramid_levels = levels_of(value);
    else if (key == "strides")
      parts.strides = pairs_of("strides", value);
    else if (key == "offsets")
      parts.offsets = pairs_of("offsets", value);
    else if (key == "starts")
      parts.starts = pairs_of("starts", value);
    else if (key == "cell_anchors")
      cell_anchors = value;
    else
      reject("spec has the key ", entries[i].quoted(), "; expected one of ", kKeys);
  }
  if (cell_anchors.text.data() == nullptr) reject("spec has no key cell_anchors; expected one");
  parts.cell_anchors = cell_anchors_of(cell_anchors, layout_of(parts.layout).components);
  return parts;
}

std::string text_of(const SpecParts& parts) {
  std::string text(kVersion);
  if (parts.layout != "xyxy") text += ";layout=" + parts.layout;
  if (parts.arithmetic != "float64") text += ";arithmetic=" + parts.arithmetic;
  for (std::size_t l = 0; l < parts.pyramid_levels.size(); ++l)
    text += (l == 0 ? ";levels=" : " ") + std::to_string(parts.pyramid_levels[l]);
  write(text, ";strides=", parts.strides, {0, 0});
  write(text, ";offsets=", parts.offsets, {0.5, 0.5});
  write(text, ";starts=", parts.starts, {0, 0});
  const auto components = static_cast<std::size_t>(layout_of(parts.layout).components);
  for (std::size_t l = 0; l < parts.cell_anchors.size(); ++l) {
    text += l == 0 ? ";cell_anchors=" : "|";
    const std::vector<double>& numbers = parts.cell_anchors[l];
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (i > 0) text += i % components == 0 ? " " : ",";
      write(text, numbers[i]);
    }
  }
  return text;
}

}  // namespace anchor_ext
