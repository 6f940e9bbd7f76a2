// Deltas on the CPU under the sanitizers: every anchor and those at indices, of any grids, coders and types; in shares
// of any size, which give the same.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "boxes/boxes.h"
#include "core/spec.h"

using namespace anchor_ext;

namespace {

std::mt19937_64 rng(1);
std::int64_t integer(std::int64_t a, std::int64_t b) {
  return a + static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(b - a + 1));
}
double uniform() { return static_cast<double>(integer(-400, 400)) / 100; }

const char* const kCoders[] = {"coder/1;max_log_ratio=4.1", "coder/1;weights=10,10,5,5",
                               "coder/1;stds=0.1,0.1,0.2,0.2;clip=outer_ends;min_side=1",
                               "coder/1;order=yxhw;centres=ends_decoded;addend=1e-7;max_shift=3"};
const char* const kSpecs[] = {"anchors/1;strides=8,8 16,9;cell_anchors=-8,-8,8,8 -9,-4,9,4|-16,-16,16,16",
                              "anchors/1;layout=yxyx;arithmetic=float32;strides=3.3,8 "
                              "16,9;cell_anchors=-8,-8,8,8|-16,-16,16,16 -9,-4,9,4 1,1,2,2"};

template <typename T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <typename T>
void decode() {
  using C = Computed<T>;
  const Pyramid pyramid =
      Spec(kSpecs[integer(0, 1)]).over({{{integer(0, 9), integer(1, 40)}, {integer(1, 3), integer(1, 70)}}, {}, {}});
  const Coder coder = coder_of(kCoders[integer(0, 3)]);
  const bool chosen = integer(0, 1) == 0;
  Items items{integer(0, 3), chosen ? integer(0, 700) : pyramid.num_anchors, {}};
  const std::int64_t count = items.images * items.of_image;
  std::vector<std::int32_t> index;
  for (std::int64_t i = 0; i < count; ++i) index.push_back(static_cast<std::int32_t>(integer(INT32_MIN, INT32_MAX)));
  if (chosen && count > 0) items.indices = {index.data(), 4};
  std::vector<ImageSide> sides;
  for (std::int64_t i = integer(0, 1) ? items.images : integer(0, 1); i > 0; --i)
    sides.push_back({integer(0, 300), integer(0, 300)});
  const ImageSides limits{sides.data(), static_cast<std::int64_t>(sides.size())};
  std::vector<T> deltas;
  std::vector<C> grad;
  for (std::int64_t i = 0; i < 4 * count; ++i) {
    deltas.push_back(round_to<T>(uniform()));
    grad.push_back(static_cast<C>(uniform()));
  }
  std::vector<C> boxes(deltas.size()), shared(deltas.size());
  std::vector<T> gradient(deltas.size()), shared_gradient(deltas.size());
  decode_cpu(pyramid, coder, items, limits, deltas.data(), boxes.data(), 0, count);
  decode_gradient_cpu(pyramid, coder, items, limits, grad.data(), deltas.data(), gradient.data(), 0, count);
  for (std::int64_t begin = 0; begin < count;) {
    const std::int64_t end = std::min(count, begin + integer(1, 600));
    decode_cpu(pyramid, coder, items, limits, deltas.data(), shared.data(), begin, end);
    decode_gradient_cpu(pyramid, coder, items, limits, grad.data(), deltas.data(), shared_gradient.data(), begin, end);
    begin = end;
  }
  if (!same(boxes, shared) || !same(gradient, shared_gradient)) {
    std::puts("shares differ");
    std::exit(1);
  }
}

template <typename C>
void encode() {
  const Pyramid pyramid = Spec(kSpecs[integer(0, 1)]).over({{{2, integer(1, 40)}, {1, 3}}, {}, {}});
  const Coder coder = coder_of(kCoders[integer(0, 3)]);
  const std::int64_t count = integer(0, 50), images = integer(1, 3);
  std::vector<std::int64_t> index, begins{0}, labels, matched, own;
  std::vector<Box<C>> boxes, by_boxes(static_cast<std::size_t>(count));
  std::vector<C> deltas(static_cast<std::size_t>(4 * count));
  for (std::int64_t i = 0; i < count; ++i) {
    index.push_back(integer(-9999, 9999));
    const C x = static_cast<C>(uniform()), y = static_cast<C>(uniform());
    boxes.push_back({x, y, x + static_cast<C>(integer(-1, 50)), y + static_cast<C>(integer(0, 50))});
    labels.push_back(i);
  }
  const Indices indices{index.data(), 8};
  encode_cpu(pyramid, coder, indices, boxes.data(), deltas.data(), 0, count);
  encode_gradient_cpu(pyramid, coder, indices, deltas.data(), boxes.data(), by_boxes.data(), 0, count);
  for (std::int64_t image = 0; image < images; ++image)
    begins.push_back(image + 1 == images ? count : integer(begins.back(), count));
  for (std::int64_t i = 0; i < images * pyramid.num_anchors; ++i) matched.push_back(integer(-3, count));
  own.resize(matched.size());
  deltas.resize(4 * matched.size());
  targets_cpu(pyramid, coder, Matched<C>{boxes.data(), labels.data(), matched.data()}, begins.data(),
              Targets<C>{deltas.data(), own.data()}, 0, static_cast<std::int64_t>(matched.size()));
}

}  // namespace

int main() {
  for (int i = 0; i < 60; ++i) {
    decode<float>();
    decode<double>();
    decode<Float16>();
    decode<BFloat16>();
    encode<float>();
    encode<double>();
  }
  std::puts("all ran");
}
