// The kernels of csrc/match: the CPU's results, of any rule, pyramid and boxes.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cases.h"
#include "core/spec.h"
#include "match/match.h"

using namespace anchor_ext;
using namespace cases;

namespace {

const char* const kRules[] = {
    "match/1;thresholds=0.4,0.5;codes=-1,-2,matched;low_quality=own",
    "match/1;thresholds=0.4,0.5;codes=-1,-2,matched;low_quality=own;needs_overlap=yes",
    "match/1;thresholds=0.5;codes=-1,matched;low_quality=last;anchors=first",
    "match/1;thresholds=0.4,0.5;codes=matched,matched,matched;quotient=zero_if_apart;both=yes;low_quality=own",
    "match/1;thresholds=0.1,0.3,0.5;codes=-2,-1,-2,matched;nan=-2;union=1e-06;least=0.2;low_quality=last;ignored=0.4",
    "match/1;thresholds=0.4,0.5;codes=-1,-2,matched;nan=-2;union=1e-06;low_quality=last;anchors=first;ignored=0.3;"
    "ignored_part=region",
    "match/1;thresholds=0.5;codes=-1,matched;quotient=zero_if_nothing;low_quality=first;anchors=first",
    "match/1;thresholds=0.4,0.5;codes=-1,-2,matched;nan=-2;union=1e-08",
};

template <typename T>
Box<T> some_box(const Pyramid& pyramid, const std::vector<Box<T>>& before) {
  const Box<float> anchor = box_at(pyramid, integer(0, pyramid.num_anchors - 1));
  const T none = std::numeric_limits<T>::quiet_NaN(), far = std::numeric_limits<T>::infinity();
  const T x = static_cast<T>(uniform(-50, 300)), y = static_cast<T>(uniform(-50, 300));
  switch (integer(0, 11)) {
    case 0:
      return {anchor.x1, anchor.y1, anchor.x2, anchor.y2};
    case 1:
      return {anchor.x1, anchor.y1, anchor.x1 + (anchor.x2 - anchor.x1) / 2, anchor.y2};
    case 2:
      return {x, y, x, y + 5};
    case 3:
      return integer(0, 3) ? Box<T>{x + 9, y + 9, x, y} : Box<T>{x, none, x + 9, far};
    case 4:
      return before.empty() ? Box<T>{x, y, x + 9, y + 9} : before[rng() % before.size()];
    case 5: {  // its neighbour on one side, where it is at an end of the grid perhaps alone
      const std::int64_t end = integer(0, 1) ? 0 : pyramid.num_anchors - 1;
      const Box<float> last = box_at(pyramid, integer(0, 1) ? end : integer(0, pyramid.num_anchors - 1));
      if (integer(0, 1)) return {last.x2 - 1, last.y1, last.x2 + 90, last.y2};
      if (integer(0, 1)) return {last.x1 - 90, last.y1, last.x1 + 1, last.y2};
      if (integer(0, 1)) return {last.x1, last.y1 - 90, last.x2, last.y1 + 1};
      return {last.x1, last.y2 - 1, last.x2, last.y2 + 90};
    }
    case 6:  // both areas together are 0 where the anchor is turned inside out
      return {500, 0, 500 + std::fabs(anchor.x2 - anchor.x1), std::fabs(anchor.y2 - anchor.y1)};
    case 7:
      return {x + 100000, y, x + 100009, y + 9};
    default:
      return {x, y, x + static_cast<T>(uniform(0, 200)), y + static_cast<T>(uniform(0, 200))};
  }
}

template <typename T>
void check_one(const char* text, int most_boxes) {
  SpecParts arguments;
  Request request;
  const std::string arithmetics[] = {"float64", "float32", "arange", "float64/float16/float32"};
  arguments.arithmetic = arithmetics[integer(0, 3)];
  arguments.layout = integer(0, 1) ? "xyxy" : "yxyx";
  for (int l = 0, levels = static_cast<int>(integer(1, 2)); l < levels; ++l) {
    arguments.cell_anchors.emplace_back();
    for (int a = 0, anchors = static_cast<int>(integer(1, 3)); a < anchors; ++a) {
      const double x = integer(0, 15) ? uniform(1, 60) : -4, y = uniform(1, 60);
      for (const double number : {-x, -y, x, y}) arguments.cell_anchors.back().push_back(number);
    }
    arguments.strides.push_back({uniform(3, 20), integer(0, 1) ? 8 : uniform(3, 20)});
    request.level_shapes.push_back({integer(1, 7), integer(1, integer(0, 3) ? 20 : 120)});
  }
  if (integer(0, 2) == 0) request.clip = ImageShape{integer(1, 100), integer(1, 100)};
  const Pyramid pyramid = Spec(arguments).over(request);
  const Rule rule = rule_of(text);

  const auto images = static_cast<std::int32_t>(integer(1, 3));
  const bool only_proper = integer(0, 1) == 0;
  std::vector<Box<T>> boxes;  // and behind them the regions
  std::vector<std::int64_t> begins{0}, region_begins{0};
  const auto add_images = [&](std::vector<std::int64_t>& to, int most) {
    for (std::int32_t image = 0; image < images; ++image) {
      for (std::int64_t i = integer(0, most); i > 0; --i) {
        Box<T> box = some_box(pyramid, boxes);
        while (only_proper && !(box.x2 > box.x1 && box.y2 > box.y1)) box = some_box(pyramid, boxes);
        boxes.push_back(box);
      }
      to.push_back(static_cast<std::int64_t>(boxes.size()) - to[0]);
    }
  };
  add_images(begins, most_boxes);
  const std::size_t count = boxes.size();
  const bool with_regions = rule.ignored_from > 0 && integer(0, 2) != 0;
  if (with_regions) {
    region_begins[0] = static_cast<std::int64_t>(count);
    add_images(region_begins, 2);
    region_begins[0] = 0;
  }
  const auto taken_along = [&](const std::vector<std::int64_t>& all) {
    Counts counts{images, {}};
    std::copy(all.begin(), all.end(), counts.begins);
    return counts;
  };
  const auto results = static_cast<std::size_t>(images * pyramid.num_anchors);
  std::vector<std::int64_t> matched(results);
  std::vector<T> iou(results);
  const auto regions_at = [&](const Box<T>* all) { return with_regions ? all + count : nullptr; };
  match_cpu(pyramid, rule, CpuBoxes<T>{boxes.data(), begins.data()},
            CpuBoxes<T>{regions_at(boxes.data()), region_begins.data()}, Matches<T>{matched.data(), iou.data()}, 0,
            images);

  const bool with_iou = integer(0, 1) == 0;
  std::vector<std::uint64_t> best(2 * count + 1);
  const auto launch = [&](void* out, const void* in) {
    void* memory = best.data();
#if defined(ANCHOR_EXT_DEVICE)
    check(cudaMalloc(&memory, best.size() * 8));
#else
    ptx::machine.regions.push_back(
        {reinterpret_cast<std::uint64_t>(memory), best.size() * 8, ptx::Region::atomics, {}});
#endif
    T* const ious = with_iou ? reinterpret_cast<T*>(static_cast<std::int64_t*>(out) + results) : nullptr;
    const auto* const all = static_cast<const Box<T>*>(in);
    match_cuda(pyramid, rule, CudaBoxes<T>{all, taken_along(begins)},
               CudaBoxes<T>{regions_at(all), with_regions ? taken_along(region_begins) : Counts{}},
               Matches<T>{static_cast<std::int64_t*>(out), ious}, memory, device, nullptr);
#if defined(ANCHOR_EXT_DEVICE)
    check(cudaDeviceSynchronize());
    check(cudaFree(memory));
#endif
  };
  const Bytes both =
      made(results * (8 + (with_iou ? sizeof(T) : 0)), 0, launch, boxes.data(), boxes.size() * sizeof(Box<T>));
  const auto* const bytes = reinterpret_cast<const unsigned char*>(matched.data());
  compare(std::string("match ") + text, Bytes(bytes, bytes + 8 * results),
          Bytes(both.begin(), both.begin() + static_cast<std::ptrdiff_t>(8 * results)), Dtype::float64);
  if (!with_iou) return;
  const auto* const ious = reinterpret_cast<const unsigned char*>(iou.data());
  compare(std::string("the IoU of match ") + text, Bytes(ious, ious + sizeof(T) * results),
          Bytes(both.begin() + static_cast<std::ptrdiff_t>(8 * results), both.end()),
          sizeof(T) == 4 ? Dtype::float32 : Dtype::float64);
}

void check_all() {
  for (const char* const text : kRules) {
    for (int i = 0; i < 12; ++i) {
      check_one<float>(text, 12);
      check_one<double>(text, 12);
    }
    check_one<float>(text, 600);  // more boxes than a block has threads
  }
}

const bool known = add(check_all);

}  // namespace
