// Matching on the CPU under the sanitizers: random pyramids, rules and boxes. The windows must give what is found pair
// by pair, for which a last box is added that is improper in a way that matches nothing.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "core/spec.h"
#include "match/best_anchor.h"
#include "match/match.h"

using namespace anchor_ext;

namespace {

std::mt19937_64 rng(1);
double uniform(double a, double b) { return a + (b - a) * static_cast<double>(rng() >> 11) * 0x1p-53; }
std::int64_t integer(std::int64_t a, std::int64_t b) {
  return a + static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(b - a + 1));
}

const char* const kRules[] = {
    "match/1;thresholds=0.4,0.5;codes=-1,-2,matched;low_quality=own;needs_overlap=yes",
    "match/1;thresholds=0.1,0.3,0.5;codes=-2,-1,-2,matched;nan=-2;union=1e-06;least=0.2;low_quality=last",
    "match/1;thresholds=0.5;codes=-1,matched;low_quality=last;anchors=first;least=0.01",
    "match/1;thresholds=0.4,0.5;codes=matched,matched,matched;quotient=zero_if_apart;both=yes",
};

template <typename T>
void check_best_anchors(const Pyramid& pyramid, const std::vector<Box<T>>& boxes) {
  Rule rule{};
  rule.quotient = Quotient::zero_if_nothing;
  std::vector<T> iou(boxes.size());
  std::vector<std::int64_t> index(boxes.size());
  best_anchors_cpu(pyramid, tables_of(pyramid), boxes.data(), BestAnchors<T>{iou.data(), index.data()}, 0,
                   static_cast<std::int64_t>(boxes.size()));
  for (std::size_t g = 0; g < boxes.size(); ++g) {
    T most = 0;
    std::int64_t first = -1;
    for (std::int64_t i = 0; i < pyramid.num_anchors; ++i) {
      const Box<float> anchor = box_at(pyramid, i);
      const T value = iou_of(rule, boxes[g], area_of(boxes[g]), anchor, area_of(anchor));
      if (value > most) most = value, first = i;
    }
    if (iou[g] == most && index[g] == first) continue;
    std::fprintf(stderr, "the best anchor differs\n");
    std::exit(1);
  }
}

template <typename T>
void check(const char* text) {
  SpecParts parts;
  Request request;
  for (int l = 0, levels = static_cast<int>(integer(1, 3)); l < levels; ++l) {
    parts.cell_anchors.emplace_back();
    for (int a = 0; a < 3; ++a)
      for (const double sign : {-1.0, 1.0})
        for (int k = 0; k < 2; ++k) parts.cell_anchors.back().push_back(sign * uniform(0, 60));
    parts.strides.push_back({uniform(3, 20), uniform(3, 20)});
    request.level_shapes.push_back({integer(0, 9), integer(1, 30)});
  }
  if (integer(0, 2) == 0) request.clip = ImageShape{integer(1, 100), integer(1, 100)};
  const Pyramid pyramid = Spec(parts).over(request);
  if (pyramid.num_anchors == 0) return;
  const Rule rule = rule_of(text);
  std::vector<Box<T>> boxes;
  for (std::int64_t i = integer(0, 30); i > 0; --i) {
    const Box<float> anchor = box_at(pyramid, integer(0, pyramid.num_anchors - 1));
    const T x = static_cast<T>(uniform(-50, 300)), y = static_cast<T>(uniform(-50, 300));
    const T side = static_cast<T>(integer(0, 4) == 0 ? 0.01 : uniform(1, 200));
    boxes.push_back(integer(0, 2) == 0 ? Box<T>{anchor.x1, anchor.y1, anchor.x2, anchor.y2}
                                       : Box<T>{x, y, x + side, y + static_cast<T>(uniform(1, 200))});
  }
  check_best_anchors(pyramid, boxes);
  const auto count = static_cast<std::int64_t>(boxes.size());
  const T far = std::numeric_limits<T>::max();
  boxes.push_back({-far, -far, far, far});  // of an infinite area: the IoUs are 0, and nothing is proper
  const std::int64_t with[] = {0, count + 1}, without[] = {0, count};
  const auto anchors = static_cast<std::size_t>(pyramid.num_anchors);
  std::vector<std::int64_t> matched(anchors), pairwise(anchors);
  std::vector<T> iou(anchors), pairwise_iou(anchors);
  const bool with_iou = integer(0, 1) == 1;
  match_cpu(pyramid, rule, CpuBoxes<T>{boxes.data(), without}, {},
            Matches<T>{matched.data(), with_iou ? iou.data() : nullptr}, 0, 1);
  match_cpu(pyramid, rule, CpuBoxes<T>{boxes.data(), with}, {}, Matches<T>{pairwise.data(), pairwise_iou.data()}, 0, 1);
  const auto is_same = [](T a, T b) { return a == b || (a != a && b != b); };
  const bool same_iou = !with_iou || std::equal(iou.begin(), iou.end(), pairwise_iou.begin(), is_same);
  if (count == 0 || (matched == pairwise && same_iou)) return;
  std::fprintf(stderr, "windows differ from pairs: %s\n", text);
  std::exit(1);
}

}  // namespace

int main() {
  for (int i = 0; i < 400; ++i)
    for (const char* const text : kRules) {
      check<float>(text);
      check<double>(text);
    }
  std::puts("all equal");
}
