// The kernels of csrc/loss: the CPU's results, of any logits, matches and labels.
#include <algorithm>
#include <cstring>

#include "cases.h"
#include "core/spec.h"
#include "loss/focal.h"

using namespace anchor_ext;
using namespace cases;

namespace {

template <typename T>
constexpr Dtype kDtype = sizeof(T) == 8               ? Dtype::float64
                         : sizeof(T) == 4             ? Dtype::float32
                         : std::is_same_v<T, Float16> ? Dtype::float16
                                                      : Dtype::bfloat16;

// One after another in memory, each from a multiple of 16 bytes on.
struct Input {
  Bytes bytes;
  template <typename Item>
  std::size_t add(const std::vector<Item>& items) {
    const std::size_t at = (bytes.size() + 15) / 16 * 16;
    bytes.resize(at + items.size() * sizeof(Item));
    std::memcpy(bytes.data() + at, items.data(), items.size() * sizeof(Item));
    return at;
  }
};

template <typename T>
const T* at(const void* memory, std::size_t offset) {
  return reinterpret_cast<const T*>(static_cast<const unsigned char*>(memory) + offset);
}

// A launch's scratch memory.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) : host_(bytes / 8 + 1) {
#if defined(ANCHOR_EXT_DEVICE)
    check(cudaMalloc(&memory_, bytes + 8));
#else
    memory_ = host_.data();
    ptx::machine.regions.push_back(
        {reinterpret_cast<std::uint64_t>(memory_), bytes, ptx::Region::scratch, Bytes(bytes)});
#endif
  }
  ~Scratch() {
#if defined(ANCHOR_EXT_DEVICE)
    cudaDeviceSynchronize();
    cudaFree(memory_);
#endif
  }
  template <typename Item>
  Item* as() const {
    return static_cast<Item*>(memory_);
  }

 private:
  std::vector<std::uint64_t> host_;
  void* memory_ = nullptr;
};

template <typename T>
void check_one(double alpha, double gamma, std::int64_t most_anchors) {
  using C = Computed<T>;
  const auto images = static_cast<std::int32_t>(integer(1, 3));
  Focal focal{integer(1, most_anchors), integer(1, 90), images, alpha, gamma, integer(0, 1) == 0, {}};
  focal.by_classes = divider_of(focal.classes);
  LabelBegins begins{};
  std::vector<std::int64_t> labels, matched;
  for (std::int32_t image = 0; image < images; ++image) {
    const std::int64_t count = integer(0, 4);
    for (std::int64_t i = 0; i < count; ++i) labels.push_back(integer(0, focal.classes - 1));
    begins.begins[image + 1] = static_cast<std::int32_t>(labels.size());
    for (std::int64_t i = 0; i < focal.anchors; ++i)
      matched.push_back(integer(0, 4) == 0 && count > 0 ? integer(0, count - 1) : integer(-3, -1));
  }
  std::vector<T> logits;
  for (std::int64_t i = 0; i < images * logits_of_image(focal); ++i)
    logits.push_back(round_to<T>(integer(0, 50) == 0 ? uniform(-300, 300) : uniform(-12, 8)));
  Input input;
  const std::size_t of_logits = input.add(logits), of_matched = input.add(matched), of_labels = input.add(labels);

  const auto tiles = static_cast<std::size_t>(tiles_of_image(focal) * images);
  const FocalTensors<T> tensors{logits.data(), matched.data(), labels.data()};
  std::vector<double> sums(tiles), weights(static_cast<std::size_t>(images));
  C loss = 0;
  focal_tiles_cpu(focal, tensors, begins, sums.data(), 0, static_cast<std::int64_t>(tiles));
  focal_finish_cpu<T>(focal, matched.data(), sums.data(), {&loss, weights.data()});
  Bytes by_cpu(8 * weights.size() + sizeof loss);
  std::memcpy(by_cpu.data(), weights.data(), 8 * weights.size());
  std::memcpy(by_cpu.data() + 8 * weights.size(), &loss, sizeof loss);
  const auto on_device = [&](const void* in) {
    return FocalTensors<T>{at<T>(in, of_logits), at<std::int64_t>(in, of_matched), at<std::int64_t>(in, of_labels)};
  };
  const Bytes result = made(
      by_cpu.size(), 0,
      [&](void* out, const void* in) {
        const Scratch sums_there(8 * tiles), positives(4 * tiles);
        auto* const to = static_cast<double*>(out);
        focal_cuda<T>(focal, on_device(in), begins, sums_there.as<double>(), positives.as<std::int32_t>(),
                      {reinterpret_cast<C*>(to + images), to}, device, nullptr);
      },
      input.bytes.data(), input.bytes.size());
  compare("the focal loss", by_cpu, result, sizeof(C) == 8 ? Dtype::float64 : Dtype::float32);

  std::vector<T> gradient(logits.size());
  const C grad = static_cast<C>(uniform(-2, 2));
  focal_gradient_cpu(focal, tensors, begins, &grad, weights.data(), gradient.data(), 0,
                     static_cast<std::int64_t>(tiles));
  const std::size_t of_grad = input.add(std::vector<C>{grad}), of_weights = input.add(weights);
  const Bytes made_gradient = made(
      gradient.size() * sizeof(T), 0,
      [&](void* out, const void* in) {
        focal_gradient_cuda<T>(focal, on_device(in), begins, at<C>(in, of_grad), at<double>(in, of_weights),
                               static_cast<T*>(out), device, nullptr);
      },
      input.bytes.data(), input.bytes.size());
  const auto* const bytes = reinterpret_cast<const unsigned char*>(gradient.data());
  compare("the gradient of the focal loss", Bytes(bytes, bytes + gradient.size() * sizeof(T)), made_gradient,
          kDtype<T>);
}

void check_all() {
  const double forms[][2] = {{0.25, 2}, {-1, 2}, {0.7, 1.5}, {0.5, 0}};
  for (const auto& [alpha, gamma] : forms)
    for (int i = 0; i < 4; ++i) {
      check_one<float>(alpha, gamma, 60);
      check_one<double>(alpha, gamma, 60);
      check_one<Float16>(alpha, gamma, 60);
      check_one<BFloat16>(alpha, gamma, 60);
    }
  check_one<float>(0.25, 2, 900);  // more tiles than one
}

const bool known = add(check_all);

}  // namespace
