// Runs the CUDA kernel's own source, and the CPU's, on the host. Reads cases from standard input, writes the anchors
// of each, as the kernel made them, to the file that the command names; stops at the first thing that is wrong.
//
// A case: dtype, offset in components, levels; rows, columns, stride y, x, cell anchors per level; their boxes.
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
  const Box box{-1, -1, 1, 1};
  const LevelShape large[] = {{46342, 46341}, {99991, 99989}, {1, 2147483647}, {2097152, 2147483647}};
  for (const LevelShape middle : large)
    for (const int a : {1, 3, 9, 32}) {
      const std::vector<LevelShape> shapes{{3, 5}, middle, {2147483647, 7}};
      const std::vector<std::vector<Box>> cell_anchors{std::vector<Box>(2, box), std::vector<Box>(a, box), {box}};
      const std::vector<Stride> strides(3, Stride{1.7, 2.3});
      const Pyramid pyramid = Config(strides, cell_anchors).over_grids(shapes);
      std::int64_t begin = 0;
      for (int l = 0; l < 3; ++l) {
        const auto count = static_cast<std::int64_t>(cell_anchors[l].size()), columns = shapes[l].columns;
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
            const Box made = anchor_at(pyramid, begin + within);
            expect(made.x1 == (static_cast<double>(at.column) + 0.5) * 2.3 - 1 &&
                       made.y2 == (static_cast<double>(at.row) + 0.5) * 1.7 + 1,
                   "a large flat index has another box");
          }
        }
        begin += size;
      }
      expect(begin == pyramid.num_anchors, "the anchors are counted differently");
    }
}

}  // namespace

int main(int, char** arguments) {
  check_large_indices();
  std::ofstream file(arguments[1], std::ios::binary);
  int dtype_number, num_levels;
  std::size_t offset;
  while (std::cin >> dtype_number >> offset >> num_levels) {
    std::vector<LevelShape> shapes(num_levels);
    std::vector<Stride> strides(num_levels);
    std::vector<std::vector<Box>> cell_anchors(num_levels);
    for (int l = 0; l < num_levels; ++l) {
      std::size_t count;
      std::cin >> shapes[l].rows >> shapes[l].columns;
      strides[l].y = read_number(), strides[l].x = read_number();
      std::cin >> count;
      cell_anchors[l].resize(count);
      for (Box& box : cell_anchors[l])
        for (double* number : {&box.x1, &box.y1, &box.x2, &box.y2}) *number = read_number();
    }
    const Pyramid pyramid = Config(strides, cell_anchors).over_grids(shapes);
    const auto dtype = static_cast<Dtype>(dtype_number);
    const auto item = std::size_t{dtype == Dtype::float64 ? 8u : dtype == Dtype::float32 ? 4u : 2u};
    const std::size_t bytes = static_cast<std::size_t>(pyramid.num_anchors) * 4 * item;
    const std::size_t first = kGuard + offset * item;

    std::vector<unsigned char> by_kernel(first + bytes + kGuard, kPoison), by_cpu = by_kernel;
    if (pyramid.num_anchors <= 300) {
      watched = {&by_kernel, first, 4 * item, pyramid.num_anchors};
      after_each_thread = check_thread;
      generate_cuda(pyramid, dtype, by_kernel.data() + first, 0, nullptr);
      after_each_thread = nullptr;
    }
    generate_cuda(pyramid, dtype, by_kernel.data() + first, 0, nullptr);
    const std::int64_t cuts[] = {0, pyramid.num_anchors / 3, pyramid.num_anchors * 5 / 7, pyramid.num_anchors};
    for (int i = 0; i < 3; ++i) {  // each share alone on poison, and back to front
      std::vector<unsigned char> share(by_cpu.size(), kPoison);
      generate_cpu(pyramid, dtype, share.data() + first, cuts[2 - i], cuts[3 - i]);
      const std::size_t begin = first + static_cast<std::size_t>(cuts[2 - i]) * 4 * item;
      const std::size_t end = first + static_cast<std::size_t>(cuts[3 - i]) * 4 * item;
      for (std::size_t j = 0; j < share.size(); ++j)
        if (j < begin || j >= end) expect(share[j] == kPoison, "a share of the CPU's work is written outside of it");
      std::copy(share.begin() + begin, share.begin() + end, by_cpu.begin() + begin);
    }
    expect(by_kernel == by_cpu, "the kernel and the CPU differ, or one wrote outside");
    for (std::size_t i = 0; i < first; ++i) expect(by_kernel[i] == kPoison, "written before the beginning");
    for (std::size_t i = first + bytes; i < by_kernel.size(); ++i)
      expect(by_kernel[i] == kPoison, "written behind the end");
    file.write(reinterpret_cast<const char*>(by_kernel.data() + first), static_cast<std::streamsize>(bytes));
  }
  return file.good() ? 0 : 1;
}
