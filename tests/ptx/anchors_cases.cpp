// The kernels of csrc/anchors.
#include <algorithm>
#include <cmath>

#include "anchors/anchors.h"
#include "cases.h"
#include "core/spec.h"

using namespace anchor_ext;
using namespace cases;

namespace {

constexpr Dtype kDtypes[] = {Dtype::float32, Dtype::float64, Dtype::float16, Dtype::bfloat16};
const char* const kNames[] = {"float32", "float64", "float16", "bfloat16", "arange", "quotient"};

void add_level(SpecParts& arguments, std::int64_t numbers, double size, Pair stride) {
  arguments.cell_anchors.emplace_back(static_cast<std::size_t>(numbers));
  for (double& number : arguments.cell_anchors.back()) number = integer(0, 9) == 0 ? 0 : uniform(-size, size);
  arguments.strides.push_back(stride);
}

Bytes by_cpu(const Pyramid& pyramid, Dtype dtype) {
  Bytes all(static_cast<std::size_t>(pyramid.num_anchors * pyramid.layout.components) * size_of(dtype));
  generate_cpu(pyramid, dtype, all.data(), 0, pyramid.num_anchors);
  return all;
}

Bytes gathered(const Pyramid& pyramid, Dtype dtype, const void* indices, std::int32_t width, std::int64_t count) {
  Bytes some(static_cast<std::size_t>(count * pyramid.layout.components) * size_of(dtype));
  gather_cpu(pyramid, {indices, width}, dtype, some.data(), 0, count);
  return some;
}

// One pyramid: all its anchors, some at indices of both widths, both kinds of flags.
void check_one(const SpecParts& arguments, const Request& request, Dtype dtype) {
  const Spec spec(arguments);
  const Pyramid pyramid = spec.over(request);
  const std::string name = arguments.arithmetic + " " + arguments.layout + " " + kNames[static_cast<int>(dtype)];
  const std::int64_t n = pyramid.num_anchors;
  const std::size_t odd = integer(0, 3) == 0 ? static_cast<std::size_t>(integer(1, 5)) * size_of(dtype) : 0;
  const Bytes all = by_cpu(pyramid, dtype);
  const auto generate = [&](void* out, auto) { generate_cuda(pyramid, dtype, out, device, nullptr); };
  compare("generate " + name, all, made(all.size(), odd, generate), dtype);

  std::vector<std::int64_t> wide(300);
  for (std::int64_t& index : wide) index = integer(0, 4) ? integer(-n, n - 1) : static_cast<std::int64_t>(rng());
  const std::vector<std::int32_t> narrow(wide.begin(), wide.end());
  for (const std::int32_t width : {4, 8}) {
    const void* const indices = width == 8 ? static_cast<const void*>(wide.data()) : narrow.data();
    const Bytes some = gathered(pyramid, dtype, indices, width, 300);
    const auto gather = [&](void* out, const void* in) {
      gather_cuda(pyramid, {in, width}, 300, dtype, out, device, nullptr);
    };
    compare("gather " + name, some, made(some.size(), odd, gather, indices, 300 * static_cast<std::size_t>(width)),
            dtype);
  }
  const ImageShape image{integer(1, 600), integer(1, 600)};
  for (const AnchorPredicate& question :
       {inside_predicate(pyramid, image, uniform(-30, 300), dtype), valid_predicate(spec, pyramid, request, image)}) {
    Bytes flags(static_cast<std::size_t>(n));
    flags_cpu(pyramid, question, reinterpret_cast<bool*>(flags.data()), 0, n);
    const auto launch = [&](void* out, auto) {
      flags_cuda(pyramid, question, static_cast<bool*>(out), device, nullptr);
    };
    if (made(flags.size(), odd, launch) != flags) wrong("flags " + name);
  }
}

void check_random(const std::string& arithmetic, const char* layout, int components, Dtype dtype) {
  const bool full = integer(0, 5) == 0, wild = integer(0, 5) == 0, quotient = arithmetic[0] == 'q';
  SpecParts arguments;
  Request request;
  arguments.arithmetic = arithmetic;
  arguments.layout = layout;
  const auto stride = [&] { return wild ? std::pow(10, uniform(-46, 40)) : integer(0, 1) ? 12 : uniform(0.1, 300); };
  const double size = wild ? std::pow(10, uniform(-46, 40)) : quotient ? 0.5 : 200;
  const bool start = !quotient && integer(0, 1) == 1;
  for (int l = 0, levels = full ? kMaxLevels : static_cast<int>(integer(1, 3)); l < levels; ++l) {
    add_level(arguments, (full ? integer(9, 32) : integer(1, 3)) * components, size, {stride(), stride()});
    arguments.offsets.push_back({uniform(0, 1), integer(0, 1) ? 0.5 : uniform(0, 1)});
    if (start) arguments.starts.push_back({uniform(-20, 20), uniform(-20, 20)});
    request.level_shapes.push_back({integer(1, full ? 3 : 20), integer(1, full ? 3 : 100)});
  }
  request.image_shape = ImageShape{integer(1, 3000), integer(1, 3000)};
  if (components != 5 && integer(0, 2) == 0) request.clip = ImageShape{integer(1, 900), integer(1, 900)};
  check_one(arguments, request, dtype);
}

// Every combination of what is rounded on the way, and the common case.
void check_all() {
  const struct {
    const char* name;
    int components;
  } layouts[] = {{"xyxy", 4}, {"yxyx", 4}, {"cxcywha", 5}, {"point", 2}, {"point_stride", 4}};
  for (const char* const position : kNames)
    for (int i = 0; i < 16; ++i)
      for (const auto& [layout, components] : layouts)
        check_random(std::string(position) + "/" + kNames[i / 4] + "/" + kNames[i % 4], layout, components,
                     kDtypes[integer(0, 3)]);
  for (int i = 0; i < 200; ++i) check_random("float64", "xyxy", 4, kDtypes[i % 4]);
}

// Of a layout that no framework has, x1 x2 y1 y2 or with the angle first: the CPU's is compared with the one function
// elsewhere.
void check_layouts() {
  for (const Layout& layout : {Layout{4, 0b0011, 0b1100, 0b0101, 0b1010}, {5, 0b00010, 0b00100, 0b00110, 0b00110}})
    for (const Dtype dtype : kDtypes) {
      SpecParts arguments;
      arguments.layout = layout.components == 5 ? "cxcywha" : "xyxy";
      add_level(arguments, 3 * layout.components, 100, {12, 7.3});
      Pyramid pyramid = Spec(arguments).over({{{19, 40}}, {}, {}});
      pyramid.layout = layout;
      pyramid.plain = false;
      const Bytes all = by_cpu(pyramid, dtype);
      const auto generate = [&](void* out, auto) { generate_cuda(pyramid, dtype, out, device, nullptr); };
      compare("a layout", all, made(all.size(), 0, generate), dtype);
    }
}

// Whole outputs of five levels of nine cell anchors.
void check_image(ImageShape image, Dtype dtype) {
  SpecParts arguments;
  for (int level = 3; level <= 7; ++level) {
    add_level(arguments, 36, std::ldexp(1, level + 2), {std::ldexp(1, level), std::ldexp(1, level)});
    arguments.pyramid_levels.push_back(level);
  }
  const Pyramid pyramid = Spec(arguments).over({{}, image, {}});
  const Bytes all = by_cpu(pyramid, dtype);
  const auto generate = [&](void* out, auto) { generate_cuda(pyramid, dtype, out, device, nullptr); };
  compare("an image", all, made(all.size(), 0, generate), dtype);
#if !defined(ANCHOR_EXT_DEVICE)
  const auto anchors = static_cast<double>(pyramid.num_anchors);
  std::printf("%5ldx%-5ld %-8s %6.1f instructions, %5.2f of float64 per anchor\n", static_cast<long>(image.height),
              static_cast<long>(image.width), kNames[static_cast<int>(dtype)],
              static_cast<double>(ptx::machine.last.instructions) / anchors,
              static_cast<double>(ptx::machine.last.float64_operations) / anchors);
#endif
}

// Many images at once: what each has alone.
struct Images {
  Spec spec;
  std::vector<ImageShape> shapes;
  Batch batch{};

  Images(const SpecParts& arguments, const std::vector<ImageShape>& images) : spec(arguments), shapes(images) {
    std::copy(arguments.pyramid_levels.begin(), arguments.pyramid_levels.end(), batch.pyramid_levels);
    for (const auto& [height, width] : shapes) {
      batch.images[batch.num_images++] = {batch.num_anchors, static_cast<std::int32_t>(height),
                                          static_cast<std::int32_t>(width)};
      batch.num_anchors += spec.over({{}, ImageShape{height, width}, {}}).num_anchors;
    }
  }
  Pyramid of(std::size_t image) const { return spec.over({{}, shapes[image], {}}); }
  Launch launch(Dtype dtype) const {
    return [=](void* out, auto) { generate_many_cuda(of(0), batch, dtype, out, device, nullptr); };
  }
};

void check_many(bool full, int images, Dtype dtype) {
  SpecParts arguments;
  for (int l = 0, levels = full ? kMaxLevels : static_cast<int>(integer(1, 5)); l < levels; ++l) {
    add_level(arguments, 4 * (full ? integer(15, 32) : integer(1, 12)), 300, {uniform(0.1, 130), 12});
    arguments.pyramid_levels.push_back(2 * l % 16 + l / 8 + 2);  // distinct, and not in order
  }
  std::vector<ImageShape> shapes;
  for (int i = 0; i < images; ++i) shapes.push_back({integer(1, full ? 24 : 99), integer(1, full ? 24 : 99)});
  const Images many(arguments, shapes);
  Bytes all;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const Bytes one = by_cpu(many.of(i), dtype);
    all.insert(all.end(), one.begin(), one.end());
  }
  compare("many images", all, made(all.size(), images % 2 * size_of(dtype), many.launch(dtype)), dtype);
}

#if !defined(ANCHOR_EXT_DEVICE)
void check_all_far() {
  for (const bool plain : {true, false})
    for (const LevelShape middle : {LevelShape{46342, 46341}, {1, 2147483647}, {1021, 67108859}, {200003, 100003}}) {
      SpecParts arguments;
      if (!plain) arguments.arithmetic = "float32";
      for (const std::int64_t cells : {2, integer(0, 1) ? 20 : 3, 1})
        add_level(arguments, 4 * cells, 300, {1.7, uniform(0.1, 9)});
      const Spec spec(arguments);
      const Pyramid pyramid = spec.over({{{3, 5}, middle, {214748, 7}}, {}, {}});
      const std::int64_t n = pyramid.num_anchors;
      const Dtype dtype = kDtypes[integer(0, 3)];
      const auto generate = [&](void* out, auto) { generate_cuda(pyramid, dtype, out, device, nullptr); };
      const auto anchor = [&](std::int64_t index) { return gathered(pyramid, dtype, &index, 8, 1); };
      check_far("generate", n, 4 * size_of(dtype), generate, anchor);
      const AnchorPredicate question = inside_predicate(pyramid, {100000, 100000}, 0, dtype);
      const auto flags = [&](void* out, auto) {
        flags_cuda(pyramid, question, static_cast<bool*>(out), device, nullptr);
      };
      if (n < std::int64_t{1} << 39)
        check_far("flags", n, 1, flags, [&](std::int64_t index) { return Bytes{flag_at(pyramid, question, index)}; });
      std::vector<std::int64_t> indices(500);
      for (std::int64_t& index : indices) index = integer(-n, n - 1);
      const Bytes some = gathered(pyramid, dtype, indices.data(), 8, 500);
      const auto gather = [&](void* out, const void* in) {
        gather_cuda(pyramid, {in, 8}, 500, dtype, out, device, nullptr);
      };
      compare("far gather", some, made(some.size(), 0, gather, indices.data(), 4000), dtype);
    }
  SpecParts arguments;
  for (const std::int32_t level : {0, 3, 4}) {
    add_level(arguments, 8, 300, {uniform(0.1, 9), 7.3});
    arguments.pyramid_levels.push_back(level);
  }
  const Images many(arguments, {{70001, 64007}, {2147483647, 3}, {1000, 1000}, {99999, 46341}});  // cells beyond 2**32
  const auto anchor = [&](std::int64_t index) {
    std::size_t image = 3;
    while (many.batch.images[image].begin > index) --image;
    const std::int64_t within = index - many.batch.images[image].begin;
    return gathered(many.of(image), Dtype::float32, &within, 8, 1);
  };
  for (int i = 0; i < 40; ++i)
    check_far("many images", many.batch.num_anchors, 16, many.launch(Dtype::float32), anchor);
}
#endif

void check_anchors() {
  check_layouts();
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
    for (const ImageShape image : {ImageShape{640, 832}, {800, 1333}}) check_image(image, dtype);
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16})
    for (const ImageShape image : {ImageShape{2160, 3840}, {8192, 16384}}) check_image(image, dtype);
}

const bool added = add(check_anchors);

}  // namespace
