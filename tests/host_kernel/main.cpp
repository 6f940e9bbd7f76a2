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

#include "config.h"
#include "cuda_runtime.h"
#include "generate.h"

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
  std::int64_t num_anchors;
} watched;

// One thread has run over poison alone: it must have written its own anchor and nothing else. (An anchor that holds
// the poison's own bytes would look unwritten; these numbers never do.)
void check_thread(std::int64_t thread) {
  std::vector<unsigned char>& memory = *watched.memory;
  const std::size_t own = watched.first + static_cast<std::size_t>(thread) * watched.anchor_bytes;
  for (std::size_t i = 0; i < memory.size(); ++i) {
    const bool mine = thread < watched.num_anchors && i >= own && i < own + watched.anchor_bytes;
    if (!mine) expect(memory[i] == kPoison, "a thread wrote beside its anchor");
  }
  if (thread < watched.num_anchors) {
    bool touched = false;
    for (std::size_t i = own; i < own + watched.anchor_bytes; ++i) touched |= memory[i] != kPoison;
    expect(touched, "a thread did not write its anchor");
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
      ConfigArguments arguments;
      for (const int count : counts) {
        arguments.cell_anchors.emplace_back();
        for (int i = 0; i < count; ++i)
          for (const double number : {-1., -1., 1., 1.}) arguments.cell_anchors.back().push_back(number);
      }
      arguments.strides = std::vector<Pair>(3, Pair{1.7, 2.3});
      const Pyramid pyramid = Config(arguments).over({shapes, {}, {}});
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

// Points and strides apart, by the CPU in shares, against both in one, by the kernel.
void check_points(ConfigArguments arguments, const Request& request, Dtype dtype, std::size_t item) {
  for (std::vector<double>& numbers : arguments.cell_anchors) numbers.resize(4);  // one cell anchor per cell
  const Pyramid pyramid = Config(arguments).over(request);
  const std::int64_t n = pyramid.num_anchors;
  const auto count = static_cast<std::size_t>(n);
  std::vector<unsigned char> whole(4 * count * item), points(2 * count * item), strides(count * item);
  generate_cuda(pyramid, dtype, whole.data(), 0, nullptr);
  points_cpu(pyramid, dtype, points.data(), strides.data(), n / 3, n);
  points_cpu(pyramid, dtype, points.data(), strides.data(), 0, n / 3);
  for (std::size_t i = 0; i < count; ++i)
    expect(std::memcmp(&points[2 * i * item], &whole[4 * i * item], 2 * item) == 0 &&
               std::memcmp(&strides[i * item], &whole[(4 * i + 2) * item], item) == 0,
           "a point or its stride is another one");
}

void check_flags(const Pyramid& pyramid, const Question& question) {
  const std::int64_t n = pyramid.num_anchors;
  std::vector<unsigned char> by_kernel(2 * kGuard + static_cast<std::size_t>(n), kPoison), by_cpu = by_kernel;
  flags_cuda(pyramid, question, reinterpret_cast<bool*>(by_kernel.data() + kGuard), 0, nullptr);
  flags_cpu(pyramid, question, reinterpret_cast<bool*>(by_cpu.data() + kGuard), n / 3, n);
  flags_cpu(pyramid, question, reinterpret_cast<bool*>(by_cpu.data() + kGuard), 0, n / 3);
  expect(by_kernel == by_cpu, "the kernel and the CPU differ about flags, or one wrote outside");
  for (std::size_t i = 0; i < by_cpu.size(); ++i)
    expect(i >= kGuard && i < kGuard + static_cast<std::size_t>(n) ? by_cpu[i] <= 1 : by_cpu[i] == kPoison,
           "a flag is missing, or written outside");
}

}  // namespace

int main(int, char** words) {
  check_large_indices();
  std::ofstream file(words[1], std::ios::binary);
  int dtype_number, num_levels;
  std::size_t offset;
  ConfigArguments arguments;
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
    const Config config(arguments);
    const Pyramid pyramid = config.over(request);
    const auto components = static_cast<std::size_t>(config.num_components());
    const auto dtype = static_cast<Dtype>(dtype_number);
    const auto item = std::size_t{dtype == Dtype::float64 ? 8u : dtype == Dtype::float32 ? 4u : 2u};
    const std::size_t bytes = static_cast<std::size_t>(pyramid.num_anchors) * components * item;
    const std::size_t first = kGuard + offset * item;

    std::vector<unsigned char> by_kernel(first + bytes + kGuard, kPoison), by_cpu = by_kernel;
    if (pyramid.num_anchors <= 300) {
      watched = {&by_kernel, first, components * item, pyramid.num_anchors};
      after_each_thread = check_thread;
      generate_cuda(pyramid, dtype, by_kernel.data() + first, 0, nullptr);
      after_each_thread = nullptr;
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
    if (arguments.layout == "point_stride") check_points(arguments, request, dtype, item);
    check_flags(pyramid, config.inside(pyramid, {300, 200}, 2.5, dtype));
    check_flags(pyramid, config.valid(pyramid, request, {300, 200}));
    file.write(reinterpret_cast<const char*>(by_kernel.data() + first), static_cast<std::streamsize>(bytes));
  }
  return file.good() ? 0 : 1;
}
