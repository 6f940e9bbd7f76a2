// Runs the CUDA kernel's own source, and the CPU's, on the host. Reads cases from standard input, writes the anchors
// of each, as the kernel made them, to the file that the command names; stops at the first thing that is wrong.
//
// A case: dtype, offset in components, arithmetic, layout, image height and width, clip height and width (0: none),
// levels; per level rows, columns, stride y, x (0: none), offset y, x, start y, x, numbers of its cell anchors, and
// those.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "anchors/anchors.h"
#include "anchors/batch.h"
#include "core/spec.h"
#include "cuda_runtime.h"

using namespace anchor_ext;

namespace {

constexpr std::size_t kGuard = 64;  // bytes of poison on both sides, beside those of the address sanitizer
constexpr unsigned char kPoison = 0xcd;

double read_number() {
  std::string text;  // hexadecimal floats, which streams do not read
  std::cin >> text;
  return std::strtod(text.c_str(), nullptr);
}

void expect(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "host_kernel: %s\n", what);
  std::exit(1);
}

struct Watched {
  std::vector<unsigned char>* memory;
  std::size_t first, anchor_bytes;
  std::vector<int> written;  // how many blocks wrote each anchor
} watched;

// One block has run over poison alone: it must have written anchors, and nothing beside them. (An anchor that holds
// the poison's own bytes would look unwritten; these numbers never do.)
void check_block() {
  std::vector<unsigned char>& memory = *watched.memory;
  const std::size_t behind = watched.first + watched.written.size() * watched.anchor_bytes;
  for (std::size_t i = 0; i < memory.size(); ++i)
    if (i < watched.first || i >= behind) expect(memory[i] == kPoison, "a block wrote beside the anchors");
  for (std::size_t anchor = 0; anchor < watched.written.size(); ++anchor) {
    const auto begin = memory.begin() + static_cast<std::ptrdiff_t>(watched.first + anchor * watched.anchor_bytes);
    const auto end = begin + static_cast<std::ptrdiff_t>(watched.anchor_bytes);
    watched.written[anchor] += std::any_of(begin, end, [](unsigned char byte) { return byte != kPoison; });
  }
  std::fill(memory.begin(), memory.end(), kPoison);
}

// Flat indices far beyond 2**31, for which nobody has the memory: where they lie, against plain division.
void check_large_indices() {
  const LevelShape large[] = {{46342, 46341}, {99991, 99989}, {1, 2147483647}, {2097152, 2147483647}};
  for (const LevelShape middle : large)
    for (const int a : {1, 3, 9, 32}) {
      const std::vector<LevelShape> shapes{{3, 5}, middle, {2147483647, 7}};
      const std::vector<int> counts{2, a, 1};
      SpecParts arguments;
      for (const int count : counts) {
        arguments.cell_anchors.emplace_back();
        for (int i = 0; i < count; ++i)
          for (const double number : {-1., -1., 1., 1.}) arguments.cell_anchors.back().push_back(number);
      }
      arguments.strides = std::vector<Pair>(3, Pair{1.7, 2.3});
      const Pyramid pyramid = Spec(arguments).over({shapes, {}, {}});
      std::int64_t begin = 0;
      for (int l = 0; l < 3; ++l) {
        const std::int64_t count = counts[l], columns = shapes[l].columns;
        const std::int64_t size = shapes[l].rows * columns * count;
        for (std::int64_t i = 0; i < 4000; ++i) {
          const std::int64_t step = size / 4000 * i, last = size - 1 - i;  // spread over the level, and its end
          for (const std::int64_t within :
               {step, step / count * count - 1, step / (count * columns) * count * columns, last}) {
            if (within < 0 || within >= size) continue;
            const Position at = locate(pyramid, begin + within);
            expect(at.level == l && at.cell_anchor == within % count && at.column == within / count % columns &&
                       at.row == within / count / columns,
                   "a large flat index lies elsewhere");
            for (const Anchor& made :
                 {anchor_at<true>(pyramid, begin + within), anchor_at<false>(pyramid, begin + within)})
              expect(made.components[0] == (static_cast<double>(at.column) + 0.5) * 2.3 - 1 &&
                         made.components[3] == (static_cast<double>(at.row) + 0.5) * 1.7 + 1,
                     "a large flat index has another box");
          }
        }
        begin += size;
      }
      expect(begin == pyramid.num_anchors, "the anchors are counted differently");
    }
}

// Many images at once, by the kernel: what each has alone. And where they lie far beyond 2**31.
void check_many() {
  SpecParts arguments;
  arguments.cell_anchors = {{-8.25, -4, 8, 4.5, -4, -8, 4, 8, 0, 0, 1, 1}, {-16, -16, 16, 16.125}, {-50, -60, 50, 60}};
  arguments.strides = {{8, 7.3}, {15.7, 16}, {129, 128}};
  arguments.pyramid_levels = {3, 4, 7};
  const Spec spec(arguments);
  std::vector<ImageShape> shapes;
  for (std::int64_t i = 0; i < kMaxImages; ++i) shapes.push_back({1 + i * 7919 % 97, 1 + i * 104729 % 131});
  const auto batch_of = [&](const std::vector<ImageShape>& images) {
    Batch batch{};
    std::copy(arguments.pyramid_levels.begin(), arguments.pyramid_levels.end(), batch.pyramid_levels);
    for (const ImageShape image : images) {
      batch.images[batch.num_images++] = {batch.num_anchors, static_cast<std::int32_t>(image.height),
                                          static_cast<std::int32_t>(image.width)};
      batch.num_anchors += spec.over({{}, image, {}}).num_anchors;
    }
    return batch;
  };
  const Batch batch = batch_of(shapes);
  const Pyramid any = spec.over({{}, shapes[0], {}});
  for (const Dtype dtype : {Dtype::float32, Dtype::float64, Dtype::float16, Dtype::bfloat16}) {
    const std::size_t anchor = dtype == Dtype::float64 ? 32 : dtype == Dtype::float32 ? 16 : 8;
    const std::size_t bytes = static_cast<std::size_t>(batch.num_anchors) * anchor;
    std::vector<unsigned char> together(bytes + kGuard, kPoison), apart(bytes + kGuard, kPoison);
    generate_many_cuda(any, batch, dtype, together.data(), 0, nullptr);
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      const Pyramid pyramid = spec.over({{}, shapes[i], {}});
      generate_cpu(pyramid, dtype, apart.data() + static_cast<std::size_t>(batch.images[i].begin) * anchor, 0,
                   pyramid.num_anchors);
    }
    expect(together == apart, "images at once have other anchors than one by one");
  }
  const std::vector<ImageShape> large{{2147483647, 2147483647}, {2147483647, 3}, {46341, 2147483647}};
  const Batch far = batch_of(large);
  for (std::size_t i = 0; i < large.size(); ++i) {
    const Pyramid pyramid = spec.over({{}, large[i], {}});
    for (std::int64_t k = 0; k < 10000; ++k) {
      const std::int64_t within = k % 2 ? pyramid.num_anchors / 10000 * k : pyramid.num_anchors - 1 - k * k;
      if (within < 0) continue;
      const Position at = locate(any, far, far.images[i].begin + within), alone = locate(pyramid, within);
      expect(at.level == alone.level && at.cell_anchor == alone.cell_anchor && at.row == alone.row &&
                 at.column == alone.column,
             "a large flat index of many images lies elsewhere");
    }
  }
}

// Anchors at indices: those among all anchors, by the kernel and by the CPU.
void check_gather(const Pyramid& pyramid, const std::vector<std::int64_t>& indices, Dtype dtype,
                  const unsigned char* all, std::size_t anchor_bytes) {
  const std::int64_t n = pyramid.num_anchors;
  const auto count = static_cast<std::int64_t>(indices.size());
  std::vector<unsigned char> by_kernel(indices.size() * anchor_bytes, kPoison), by_cpu = by_kernel;
  gather_cuda(pyramid, {indices.data(), 8}, count, dtype, by_kernel.data(), 0, nullptr);
  gather_cpu(pyramid, {indices.data(), 8}, dtype, by_cpu.data(), 0, count);
  expect(by_kernel == by_cpu, "the kernel and the CPU differ about anchors at indices");
  for (std::int64_t i = 0; i < count; ++i) {
    const auto wanted = static_cast<std::size_t>((indices[i] % n + n) % n);
    expect(std::memcmp(by_cpu.data() + i * anchor_bytes, all + wanted * anchor_bytes, anchor_bytes) == 0,
           "an anchor at an index is another one");
  }
  std::vector<std::int32_t> narrow(indices.begin(), indices.end());
  const std::vector<std::int64_t> widened(narrow.begin(), narrow.end());
  gather_cpu(pyramid, {narrow.data(), 4}, dtype, by_cpu.data(), 0, count);
  gather_cuda(pyramid, {widened.data(), 8}, count, dtype, by_kernel.data(), 0, nullptr);
  expect(by_kernel == by_cpu, "32-bit indices give other anchors");
}

void check_gather(const Pyramid& pyramid, Dtype dtype, const unsigned char* all, std::size_t anchor_bytes) {
  const std::int64_t n = pyramid.num_anchors;
  const std::vector<std::int64_t> few{0, -1, n, n - 1, n / 2, -n, -n - 1, 3 * n + n / 3, INT64_MAX, INT64_MIN};
  check_gather(pyramid, few, dtype, all, anchor_bytes);
  for (const std::int64_t first : {std::int64_t{0}, -n, n, -n / 2}) {  // of many the CPU makes blocks
    std::vector<std::int64_t> many;
    for (std::int64_t i = 0; i < 600; ++i) many.push_back(first + i * 7919 % n);
    check_gather(pyramid, many, dtype, all, anchor_bytes);
  }
  std::vector<std::int64_t> mixed;
  for (std::int64_t i = 0; i < 600; ++i) mixed.push_back(i % 9 == 0 ? few[i % few.size()] : i * 7919 % n);
  check_gather(pyramid, mixed, dtype, all, anchor_bytes);
}

void check_flags(const Pyramid& pyramid, const AnchorPredicate& predicate) {
  const std::int64_t n = pyramid.num_anchors;
  std::vector<unsigned char> by_kernel(2 * kGuard + static_cast<std::size_t>(n), kPoison), by_cpu = by_kernel;
  flags_cuda(pyramid, predicate, reinterpret_cast<bool*>(by_kernel.data() + kGuard), 0, nullptr);
  flags_cpu(pyramid, predicate, reinterpret_cast<bool*>(by_cpu.data() + kGuard), n / 3, n);
  flags_cpu(pyramid, predicate, reinterpret_cast<bool*>(by_cpu.data() + kGuard), 0, n / 3);
  expect(by_kernel == by_cpu, "the kernel and the CPU differ about flags, or one wrote outside");
  for (std::size_t i = 0; i < by_cpu.size(); ++i)
    expect(i >= kGuard && i < kGuard + static_cast<std::size_t>(n) ? by_cpu[i] <= 1 : by_cpu[i] == kPoison,
           "a flag is missing, or written outside");
}

// All anchors, of any layout, in shares of the CPU's and by the kernel, against the one function; and at indices.
void check_layout(Pyramid pyramid, const Layout& layout, Dtype dtype) {
  pyramid.layout = layout;
  pyramid.plain = false;
  const std::size_t item = dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
  const std::size_t anchor_bytes = static_cast<std::size_t>(layout.components) * item;
  const std::int64_t n = pyramid.num_anchors;
  std::vector<unsigned char> expected(static_cast<std::size_t>(n) * anchor_bytes), by_cpu = expected,
                                                                                   by_kernel = expected;
  for (std::int64_t i = 0; i < n; ++i) {
    const Anchor anchor = anchor_at<false>(pyramid, i);
    unsigned char* const at = expected.data() + static_cast<std::size_t>(i) * anchor_bytes;
    for (int k = 0; k < layout.components; ++k) {
      const double value = anchor.components[k];
      const auto put = [&](auto number) { std::memcpy(at + static_cast<std::size_t>(k) * item, &number, item); };
      if (dtype == Dtype::float64) put(value);
      if (dtype == Dtype::float32) put(round_to<float>(value));
      if (dtype == Dtype::float16) put(round_to<Float16>(value));
      if (dtype == Dtype::bfloat16) put(round_to<BFloat16>(value));
    }
  }
  const std::int64_t cuts[] = {0, n / 7, n / 3, n * 5 / 7, n};
  for (int i = 0; i < 4; ++i) generate_cpu(pyramid, dtype, by_cpu.data(), cuts[i], cuts[i + 1]);
  expect(by_cpu == expected, "the CPU has other anchors of a layout");
  generate_cuda(pyramid, dtype, by_kernel.data(), 0, nullptr);
  expect(by_kernel == expected, "the kernel has other anchors of a layout");
  check_gather(pyramid, dtype, expected.data(), anchor_bytes);
}

// Layouts that no framework has: the axes in any order, what does not move anywhere, signed zeros among it.
void check_layouts() {
  const Layout layouts[] = {
      {4, 0b0011, 0b1100, 0b0101, 0b1010},      // x1, x2, y1, y2
      {5, 0b00010, 0b00100, 0b00110, 0b00110},  // angle, centre x, y, width, height
      {5, 0b10000, 0b00001, 0b10001, 0b10001},  // centre y, then three that do not move, centre x
      {3, 0b001, 0b010, 0b011, 0b011},          // x, y, size
      {1, 0b1, 0b0, 0b1, 0b1},                  // x alone
  };
  const std::vector<std::vector<LevelShape>> grids{{{9, 7}, {1, 3}}, {{3, 300}, {40, 1}}, {{5, 67}, {2, 1}}};
  for (const Layout& layout : layouts)
    for (const int count : {1, 2, 3, 7, 9, 32})
      for (const auto& shapes : grids)
        for (const bool clipped : {false, true}) {
          SpecParts arguments;
          arguments.layout = layout.components == 5 ? "cxcywha" : "xyxy";
          arguments.arithmetic = count == 3 ? "arange" : count == 7 ? "float32/bfloat16/bfloat16" : "float64";
          arguments.strides = {{8, 7}, {16, 15}};
          const std::size_t numbers = layout.components == 5 ? 5 : 4;
          for (int l = 0; l < 2; ++l) {
            arguments.cell_anchors.emplace_back();
            for (std::size_t i = 0; i < static_cast<std::size_t>(count) * numbers; ++i)
              arguments.cell_anchors.back().push_back(i % 5 == 1 ? -0.0 : static_cast<double>(i) - 4.5);
          }
          Pyramid pyramid = Spec(arguments).over({shapes, {}, {}});
          pyramid.clipped = clipped;
          pyramid.limit_y = 30, pyramid.limit_x = 40.5;
          for (const Dtype dtype : {Dtype::float32, Dtype::float64, Dtype::float16, Dtype::bfloat16})
            check_layout(pyramid, layout, dtype);
        }
}

}  // namespace

int main(int, char** words) {
  check_large_indices();
  check_many();
  check_layouts();
  std::ofstream file(words[1], std::ios::binary);
  int dtype_number, num_levels;
  std::size_t offset;
  SpecParts arguments;
  ImageShape image, clip;
  while (std::cin >> dtype_number >> offset >> arguments.arithmetic >> arguments.layout >> image.height >>
         image.width >> clip.height >> clip.width >> num_levels) {
    Request request;
    request.image_shape = image;
    if (clip.height > 0) request.clip = clip;
    arguments.cell_anchors.assign(num_levels, {});
    for (auto* const pairs : {&arguments.strides, &arguments.offsets, &arguments.starts}) pairs->assign(num_levels, {});
    for (int l = 0; l < num_levels; ++l) {
      LevelShape shape{};
      std::cin >> shape.rows >> shape.columns;
      request.level_shapes.push_back(shape);
      for (auto* const pairs : {&arguments.strides, &arguments.offsets, &arguments.starts})
        (*pairs)[l].y = read_number(), (*pairs)[l].x = read_number();
      std::size_t count;
      std::cin >> count;
      arguments.cell_anchors[l].resize(count);
      for (double& number : arguments.cell_anchors[l]) number = read_number();
    }
    if (arguments.strides[0].y == 0) arguments.strides.clear();
    const Spec spec(arguments);
    const Pyramid pyramid = spec.over(request);
    const auto components = static_cast<std::size_t>(spec.layout().components);
    const auto dtype = static_cast<Dtype>(dtype_number);
    const auto item = std::size_t{dtype == Dtype::float64 ? 8u : dtype == Dtype::float32 ? 4u : 2u};
    const std::size_t bytes = static_cast<std::size_t>(pyramid.num_anchors) * components * item;
    const std::size_t first = kGuard + offset * item;

    std::vector<unsigned char> by_kernel(first + bytes + kGuard, kPoison), by_cpu = by_kernel;
    if (pyramid.num_anchors <= 300) {
      watched = {&by_kernel, first, components * item, std::vector<int>(static_cast<std::size_t>(pyramid.num_anchors))};
      after_each_block = check_block;
      generate_cuda(pyramid, dtype, by_kernel.data() + first, 0, nullptr);
      after_each_block = nullptr;
      for (const int blocks : watched.written) expect(blocks == 1, "an anchor was not written by one block");
    }
    generate_cuda(pyramid, dtype, by_kernel.data() + first, 0, nullptr);
    const std::int64_t cuts[] = {0, pyramid.num_anchors / 3, pyramid.num_anchors * 5 / 7, pyramid.num_anchors};
    for (int i = 0; i < 3; ++i) {  // each share alone on poison, and back to front
      std::vector<unsigned char> share(by_cpu.size(), kPoison);
      generate_cpu(pyramid, dtype, share.data() + first, cuts[2 - i], cuts[3 - i]);
      const std::size_t begin = first + static_cast<std::size_t>(cuts[2 - i]) * components * item;
      const std::size_t end = first + static_cast<std::size_t>(cuts[3 - i]) * components * item;
      for (std::size_t j = 0; j < share.size(); ++j)
        if (j < begin || j >= end) expect(share[j] == kPoison, "a share of the CPU's work is written outside of it");
      std::copy(share.begin() + begin, share.begin() + end, by_cpu.begin() + begin);
    }
    expect(by_kernel == by_cpu, "the kernel and the CPU differ, or one wrote outside");
    for (std::size_t i = 0; i < first; ++i) expect(by_kernel[i] == kPoison, "written before the beginning");
    for (std::size_t i = first + bytes; i < by_kernel.size(); ++i)
      expect(by_kernel[i] == kPoison, "written behind the end");
    check_gather(pyramid, dtype, by_kernel.data() + first, components * item);
    check_flags(pyramid, inside_predicate(pyramid, {300, 200}, 2.5, dtype));
    check_flags(pyramid, valid_predicate(spec, pyramid, request, {300, 200}));
    file.write(reinterpret_cast<const char*>(by_kernel.data() + first), static_cast<std::streamsize>(bytes));
  }
  return file.good() ? 0 : 1;
}
