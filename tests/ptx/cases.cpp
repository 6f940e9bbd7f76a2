// Every kernel against the CPU's loops, bit for bit: run by the machine of this folder, or with -DANCHOR_EXT_DEVICE by
// a GPU. Stops at the first thing that is wrong. A NaN equals every other: the hardware's has other bits than the
// host's.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "anchors/anchors.h"
#include "core/spec.h"
#include "kernels.h"
#if !defined(ANCHOR_EXT_DEVICE)
#include "machine.h"
#endif

using namespace anchor_ext;

namespace {

using Bytes = std::vector<unsigned char>;
std::mt19937_64 rng(12345);
long cases = 0;
int device = 0;

double uniform(double a, double b) { return a + (b - a) * static_cast<double>(rng() >> 11) * 0x1p-53; }
std::int64_t integer(std::int64_t a, std::int64_t b) {
  return a + static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(b - a + 1));
}
std::size_t bytes_of(Dtype d) { return d == Dtype::float64 ? 8 : d == Dtype::float32 ? 4 : 2; }

[[noreturn]] void wrong(const std::string& what, long long at = 0) {
  std::fprintf(stderr, "cases: %s (%lld)\n", what.c_str(), at);
  std::exit(1);
}

bool is_nan(const unsigned char* number, Dtype dtype) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, number, bytes_of(dtype));
  if (dtype == Dtype::float64) return bits << 1 > std::uint64_t{0x7ff} << 53;
  if (dtype == Dtype::float32) return (bits & 0x7fffffff) > 0x7f800000;
  return (bits & 0x7fff) > (dtype == Dtype::float16 ? 0x7c00 : 0x7f80);
}

void compare(const std::string& what, const unsigned char* by_cpu, const unsigned char* made, std::size_t bytes,
             Dtype dtype) {
  ++cases;
  if (std::memcmp(by_cpu, made, bytes) == 0) return;
  const std::size_t item = bytes_of(dtype);
  for (std::size_t i = 0; i < bytes; i += item)
    if (std::memcmp(by_cpu + i, made + i, item) != 0 && !(is_nan(by_cpu + i, dtype) && is_nan(made + i, dtype)))
      wrong(what + ": differs from the CPU at number", static_cast<long long>(i / item));
}

#if defined(ANCHOR_EXT_DEVICE)
void check(cudaError_t error) {
  if (error != cudaSuccess) wrong(cudaGetErrorString(error));
}
// What `launch` writes into `bytes` of the device's memory that begin `misaligned` bytes behind a line; poison around.
Bytes made(std::size_t bytes, std::size_t misaligned, const std::function<void(void*, const void*)>& launch,
           const void* input = nullptr, std::size_t input_bytes = 0) {
  constexpr std::size_t kGuard = 256;
  unsigned char *memory = nullptr, *given = nullptr;
  check(cudaMalloc(&memory, bytes + 2 * kGuard));
  check(cudaMalloc(&given, input_bytes + 1));
  check(cudaMemset(memory, 0xcd, bytes + 2 * kGuard));
  if (input_bytes != 0) check(cudaMemcpy(given, input, input_bytes, cudaMemcpyHostToDevice));
  launch(memory + kGuard + misaligned, given);
  Bytes all(bytes + 2 * kGuard);
  check(cudaMemcpy(all.data(), memory, all.size(), cudaMemcpyDeviceToHost));
  for (std::size_t i = 0; i < all.size(); ++i)
    if ((i < kGuard + misaligned || i >= kGuard + misaligned + bytes) && all[i] != 0xcd) wrong("written outside");
  check(cudaFree(memory));
  check(cudaFree(given));
  return {all.begin() + kGuard + misaligned, all.begin() + kGuard + misaligned + static_cast<std::ptrdiff_t>(bytes)};
}
#else
// The same, where the machine counts how often each byte is written.
Bytes made(std::size_t bytes, std::size_t misaligned, const std::function<void(void*, const void*)>& launch,
           const void* input = nullptr, std::size_t input_bytes = 0) {
  Bytes memory(bytes + 64);
  unsigned char* const out =
      memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 32) % 32 + misaligned;
  ptx::machine.regions = {{reinterpret_cast<std::uint64_t>(out), bytes, ptx::Region::output, Bytes(bytes)},
                          {reinterpret_cast<std::uint64_t>(input), input_bytes, ptx::Region::input, {}}};
  launch(out, input);
  for (const std::uint8_t times : ptx::machine.regions[0].written)
    if (times != 1) wrong("a byte was not written");
  return {out, out + bytes};
}
// Some blocks of a launch whose output nobody has the memory for, the first and the last among them: every anchor that
// they store, against `anchor(index)`.
void check_far(const std::string& what, std::int64_t anchors, std::size_t bytes,
               const std::function<void(void*)>& launch, const std::function<Bytes(std::int64_t)>& anchor) {
  constexpr std::uint64_t kBase = std::uint64_t{1} << 52;
  ptx::machine.sample = 12;
  ptx::machine.stores.clear();
  launch(reinterpret_cast<void*>(kBase));
  ptx::machine.sample = 0;
  std::set<std::uint64_t> seen;
  for (const ptx::Store& store : ptx::machine.stores) {
    const std::uint64_t offset = store.address - kBase, index = offset / bytes;
    if (offset + store.bytes > static_cast<std::uint64_t>(anchors) * bytes) wrong(what + ": a store outside");
    if (!seen.insert(offset).second) wrong(what + ": a store twice", static_cast<long long>(index));
    const Bytes expected = anchor(static_cast<std::int64_t>(index));
    if (std::memcmp(expected.data() + offset % bytes, store.value, store.bytes) != 0)
      wrong(what + ": a far anchor is another one", static_cast<long long>(index));
    ++cases;
  }
}
#endif

Pyramid random_pyramid(const std::string& arithmetic, const std::string& layout, int components, bool full,
                       SpecParts& a, Request& r) {
  const bool quotient = arithmetic[0] == 'q', wild = integer(0, 5) == 0, start = !quotient && integer(0, 1) == 1;
  a = {};
  r = {};
  a.arithmetic = arithmetic;
  a.layout = layout;
  const double size = wild ? std::pow(10, uniform(-46, 40)) : quotient ? 0.5 : 200;
  const auto stride = [&] { return wild ? std::pow(10, uniform(-46, 40)) : integer(0, 1) ? 12 : uniform(0.1, 300); };
  for (int l = 0, levels = full ? kMaxLevels : static_cast<int>(integer(1, 3)); l < levels; ++l) {
    a.cell_anchors.emplace_back(static_cast<std::size_t>((full ? integer(9, 32) : integer(1, 3)) * components));
    for (double& number : a.cell_anchors.back()) number = integer(0, 9) == 0 ? 0 : uniform(-size, size);
    a.strides.push_back({stride(), stride()});
    a.offsets.push_back({uniform(0, 1), integer(0, 1) ? 0.5 : uniform(0, 1)});
    if (start) a.starts.push_back({uniform(-20, 20), uniform(-20, 20)});
    r.level_shapes.push_back({integer(1, full ? 3 : 20), integer(1, full ? 3 : 100)});
  }
  r.image_shape = ImageShape{integer(1, 3000), integer(1, 3000)};
  if (layout != "cxcywha" && integer(0, 2) == 0) r.clip = ImageShape{integer(1, 900), integer(1, 900)};
  return Spec(a).over(r);
}

// One pyramid: all its anchors, some at indices, both kinds of flags.
void check_one(const SpecParts& a, const Request& r, const Pyramid& pyramid, Dtype dtype) {
  const std::string name = a.arithmetic + " " + a.layout + " dtype " + std::to_string(static_cast<int>(dtype));
  const std::int64_t n = pyramid.num_anchors;
  const std::size_t item = bytes_of(dtype), anchor = item * static_cast<std::size_t>(pyramid.layout.components);
  const std::size_t odd = integer(0, 3) == 0 ? static_cast<std::size_t>(integer(1, 5)) * item : 0;
  Bytes by_cpu(static_cast<std::size_t>(n) * anchor);
  generate_cpu(pyramid, dtype, by_cpu.data(), 0, n);
  const Bytes all =
      made(by_cpu.size(), odd, [&](void* out, auto) { generate_cuda(pyramid, dtype, out, device, nullptr); });
  compare("generate " + name, by_cpu.data(), all.data(), all.size(), dtype);

  constexpr std::size_t kCount = 300;
  std::vector<std::int64_t> wide(kCount);
  for (std::int64_t& index : wide) index = integer(0, 4) ? integer(-n, n - 1) : static_cast<std::int64_t>(rng());
  const std::vector<std::int32_t> narrow(wide.begin(), wide.end());
  for (const std::int32_t width : {4, 8}) {
    const void* const indices = width == 8 ? static_cast<const void*>(wide.data()) : narrow.data();
    Bytes gathered(kCount * anchor);
    gather_cpu(pyramid, {indices, width}, dtype, gathered.data(), 0, kCount);
    const auto launch = [&](void* out, const void* in) {
      gather_cuda(pyramid, {in, width}, kCount, dtype, out, 0, nullptr);
    };
    const Bytes some = made(gathered.size(), odd, launch, indices, kCount * static_cast<std::size_t>(width));
    compare("gather " + name, gathered.data(), some.data(), some.size(), dtype);
  }
  const Spec spec(a);
  const ImageShape image{integer(1, 600), integer(1, 600)};
  for (const AnchorPredicate& predicate :
       {inside_predicate(pyramid, image, uniform(-30, 300), dtype), valid_predicate(spec, pyramid, r, image)}) {
    Bytes flags(static_cast<std::size_t>(n));
    flags_cpu(pyramid, predicate, reinterpret_cast<bool*>(flags.data()), 0, n);
    const auto launch = [&](void* out, auto) {
      flags_cuda(pyramid, predicate, static_cast<bool*>(out), device, nullptr);
    };
    if (made(flags.size(), odd, launch) != flags) wrong("flags " + name);
    ++cases;
  }
}

constexpr Dtype kDtypes[] = {Dtype::float32, Dtype::float64, Dtype::float16, Dtype::bfloat16};

void check_all() {
  const char* const types[] = {"float64", "float32", "float16", "bfloat16", "arange", "quotient"};
  const struct {
    const char* name;
    int components;
  } layouts[] = {{"xyxy", 4}, {"yxyx", 4}, {"cxcywha", 5}, {"point", 2}, {"point_stride", 4}};
  SpecParts a;
  Request r;
  for (const char* const position : types)
    for (int centre = 0; centre < 4; ++centre)
      for (int sum = 0; sum < 4; ++sum)
        for (const auto& [layout, components] : layouts) {
          const std::string arithmetic = std::string(position) + "/" + types[centre] + "/" + types[sum];
          const Pyramid pyramid = random_pyramid(arithmetic, layout, components, integer(0, 5) == 0, a, r);
          check_one(a, r, pyramid, kDtypes[integer(0, 3)]);
        }
  for (int i = 0; i < 200; ++i) {
    const Pyramid pyramid = random_pyramid("float64", "xyxy", 4, i % 4 == 0, a, r);
    check_one(a, r, pyramid, kDtypes[i % 4]);
  }
}

Spec retinanet() {
  SpecParts a;
  for (int level = 3; level <= 7; ++level) {
    a.pyramid_levels.push_back(level);
    a.strides.push_back({std::ldexp(1, level), std::ldexp(1, level)});
    a.cell_anchors.emplace_back();
    for (const double ratio : {0.5, 1.0, 2.0})
      for (const double scale : {1.0, 1.2599210498948732, 1.5874010519681994}) {
        const double side = std::ldexp(scale, level + 2), width = std::sqrt(side * side / ratio),
                     height = width * ratio;
        for (const double number : {-width * 0.5, -height * 0.5, width - width * 0.5, height - height * 0.5})
          a.cell_anchors.back().push_back(number);
      }
  }
  return Spec(a);
}

void check_whole(ImageShape image, Dtype dtype) {
  const Pyramid pyramid = retinanet().over({{}, image, {}});
  Bytes by_cpu(static_cast<std::size_t>(pyramid.num_anchors) * 4 * bytes_of(dtype));
  generate_cpu(pyramid, dtype, by_cpu.data(), 0, pyramid.num_anchors);
  const Bytes all =
      made(by_cpu.size(), 0, [&](void* out, auto) { generate_cuda(pyramid, dtype, out, device, nullptr); });
  compare("an image", by_cpu.data(), all.data(), all.size(), dtype);
#if !defined(ANCHOR_EXT_DEVICE)
  const auto& last = ptx::machine.last;
  const auto per_anchor = [&](std::uint64_t count) {
    return static_cast<double>(count) / static_cast<double>(pyramid.num_anchors);
  };
  std::printf("executed %lldx%lld %s: %.1f instructions, %.2f of float64 per anchor\n",
              static_cast<long long>(image.height), static_cast<long long>(image.width),
              dtype == Dtype::float32   ? "float32"
              : dtype == Dtype::float64 ? "float64"
              : dtype == Dtype::float16 ? "float16"
                                        : "bfloat16",
              per_anchor(last.instructions), per_anchor(last.float64_operations));
#endif
}

Batch batch_of(const Spec& spec, const std::vector<ImageShape>& shapes) {
  Batch batch{};
  std::copy(spec.parts().pyramid_levels.begin(), spec.parts().pyramid_levels.end(), batch.pyramid_levels);
  for (const ImageShape image : shapes) {
    batch.images[batch.num_images++] = {batch.num_anchors, static_cast<std::int32_t>(image.height),
                                        static_cast<std::int32_t>(image.width)};
    batch.num_anchors += spec.over({{}, image, {}}).num_anchors;
  }
  return batch;
}

void check_many(bool full, int images, Dtype dtype) {
  SpecParts a;
  for (int l = 0, levels = full ? kMaxLevels : static_cast<int>(integer(1, 5)); l < levels; ++l) {
    a.cell_anchors.emplace_back(static_cast<std::size_t>(4 * (full ? integer(15, 32) : integer(1, 12))));
    for (double& number : a.cell_anchors.back()) number = uniform(-300, 300);
    a.pyramid_levels.push_back(static_cast<std::int32_t>(l + integer(0, 2) + 2));
    a.strides.push_back({uniform(0.1, 130), integer(0, 1) ? 7.3 : 12});
  }
  const Spec spec(a);
  std::vector<ImageShape> shapes;
  for (int i = 0; i < images; ++i) shapes.push_back({integer(1, full ? 64 : 200), integer(1, full ? 64 : 200)});
  const Batch batch = batch_of(spec, shapes);
  const std::size_t anchor = 4 * bytes_of(dtype);
  Bytes by_cpu(static_cast<std::size_t>(batch.num_anchors) * anchor);
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const Pyramid pyramid = spec.over({{}, shapes[i], {}});
    generate_cpu(pyramid, dtype, by_cpu.data() + static_cast<std::size_t>(batch.images[i].begin) * anchor, 0,
                 pyramid.num_anchors);
  }
  const Pyramid any = spec.over({{}, shapes[0], {}});
  const Bytes all = made(by_cpu.size(), images % 2 * bytes_of(dtype),
                         [&](void* out, auto) { generate_many_cuda(any, batch, dtype, out, device, nullptr); });
  compare("many images", by_cpu.data(), all.data(), all.size(), dtype);
}

#if !defined(ANCHOR_EXT_DEVICE)
void check_all_far() {
  for (const bool plain : {true, false})
    for (const bool full : {false, true})
      for (const LevelShape middle : {LevelShape{46342, 46341}, {1, 2147483647}, {1021, 67108859}, {200003, 100003}}) {
        SpecParts a;
        for (const int count : {2, full ? 20 : 3, 1}) {
          a.cell_anchors.emplace_back(static_cast<std::size_t>(4 * count));
          for (double& number : a.cell_anchors.back()) number = uniform(-300, 300);
        }
        a.strides = {{1.7, 2.3}, {uniform(0.1, 9), uniform(0.1, 9)}, {3, 4}};
        if (!plain) a.arithmetic = "float32";
        const Spec spec(a);
        const Pyramid pyramid = spec.over({{{3, 5}, middle, {214748, 7}}, {}, {}});
        const std::int64_t n = pyramid.num_anchors;
        const Dtype dtype = kDtypes[integer(0, 3)];
        const std::size_t anchor = 4 * bytes_of(dtype);
        const auto anchor_of = [&](std::int64_t index) {
          Bytes one(anchor);
          gather_cpu(pyramid, {&index, 8}, dtype, one.data(), 0, 1);
          return one;
        };
        check_far(
            "generate", n, anchor, [&](void* out) { generate_cuda(pyramid, dtype, out, device, nullptr); }, anchor_of);
        const AnchorPredicate predicate = inside_predicate(pyramid, {100000, 100000}, 0, dtype);
        if (n < std::int64_t{1} << 39)
          check_far(
              "flags", n, 1,
              [&](void* out) { flags_cuda(pyramid, predicate, static_cast<bool*>(out), device, nullptr); },
              [&](std::int64_t index) { return Bytes{flag_at(pyramid, predicate, index)}; });
        std::vector<std::int64_t> indices(500);
        for (std::int64_t& index : indices) index = integer(-n, n - 1);
        Bytes by_cpu(500 * anchor);
        gather_cpu(pyramid, {indices.data(), 8}, dtype, by_cpu.data(), 0, 500);
        const auto gather = [&](void* out, const void* in) {
          gather_cuda(pyramid, {in, 8}, 500, dtype, out, 0, nullptr);
        };
        const Bytes some = made(by_cpu.size(), 0, gather, indices.data(), 4000);
        compare("far gather", by_cpu.data(), some.data(), some.size(), dtype);
      }
  SpecParts a;  // cells that 32 bits cannot count
  a.pyramid_levels = {0, 3, 4};
  a.cell_anchors.assign(3, {-1, -2, 3, 4, -5, -6, 7, 8.5});
  a.strides.assign(3, {uniform(0.1, 9), 7.3});
  const Spec spec(a);
  const std::vector<ImageShape> shapes{{70001, 64007}, {2147483647, 3}, {1000, 1000}, {99999, 46341}};
  const Batch batch = batch_of(spec, shapes);
  const auto anchor_of = [&](std::int64_t index) {
    int image = 3;
    while (batch.images[image].begin > index) --image;
    const std::int64_t within = index - batch.images[image].begin;
    Bytes one(16);
    gather_cpu(spec.over({{}, shapes[static_cast<std::size_t>(image)], {}}), {&within, 8}, Dtype::float32, one.data(),
               0, 1);
    return one;
  };
  const auto launch = [&](void* out) {
    generate_many_cuda(spec.over({{}, shapes[0], {}}), batch, Dtype::float32, out, 0, nullptr);
  };
  for (int i = 0; i < 20; ++i) check_far("many images", batch.num_anchors, 16, launch, anchor_of);
}
#endif

// The machine itself, or the device: kernels.cu.
void check_kernels() {
  std::vector<int> numbers(1000), reversed(256);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<int>(i * 7919 % 10007);
#if defined(ANCHOR_EXT_DEVICE)
  const Bytes back = made(
      1024, 0,
      [](void* out, const void* in) { launch_reverse(static_cast<const int*>(in), static_cast<int*>(out), true); },
      numbers.data(), 1024);
#else
  Sums sums{0, ~0ull, 0, 0}, expected = sums;
  std::vector<float> powers(1000);
  const auto address = [](const void* memory) { return reinterpret_cast<std::uint64_t>(memory); };
  ptx::machine.regions = {{address(numbers.data()), 4000, ptx::Region::input, {}},
                          {address(&sums), sizeof sums, ptx::Region::atomics, {}},
                          {address(powers.data()), 4000, ptx::Region::output, Bytes(4000)}};
  launch_sums(numbers.data(), 1000, &sums, powers.data());
  if (!ptx::machine.last.approximates || ptx::machine.last.depends_on_order) wrong("what a launch did is not noted");
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    expected.sum += static_cast<unsigned long long>(numbers[i]);
    expected.largest = std::max(expected.largest, numbers[i]);
    expected.smallest = std::min(expected.smallest, static_cast<unsigned long long>(numbers[i]));
    expected.odd += numbers[i] % 2;
    const double power = std::exp2(-(numbers[i] % 16)) + std::log2(1.0 + numbers[i] % 16);
    if (std::abs(powers[i] - power) > 1e-6 * power) wrong("an approximation is too far off");
  }
  if (sums.sum != expected.sum || sums.largest != expected.largest || sums.smallest != expected.smallest ||
      sums.odd != expected.odd)
    wrong("atomics, shuffles or votes");
  const Bytes back = made(
      1024, 0,
      [](void* out, const void* in) { launch_reverse(static_cast<const int*>(in), static_cast<int*>(out), true); },
      numbers.data(), 1024);
#endif
  std::memcpy(reversed.data(), back.data(), 1024);
  if (!std::equal(reversed.rbegin(), reversed.rend(), numbers.begin())) wrong("shared memory");
}

}  // namespace

int main() {
  check_kernels();
  check_all();
#if !defined(ANCHOR_EXT_DEVICE)
  check_all_far();
  device = 1;
  check_all();
  check_all_far();
  device = 0;
#endif
  for (int i = 0; i < 24; ++i)
    check_many(i % 2 == 0, i < 4 ? kMaxImages : static_cast<int>(integer(1, 9)), kDtypes[i % 4]);
  for (const Dtype dtype : kDtypes)
    for (const ImageShape image : {ImageShape{640, 832}, {800, 1333}, {2160, 3840}}) check_whole(image, dtype);
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16}) check_whole({8192, 16384}, dtype);
  std::printf("%ld cases, all equal\n", cases);
}
