// A block per tile and a warp per group; then one block, a warp per image. For derivatives a thread per logit.
#include "core/launch.h"
#include "loss/focal.h"

namespace anchor_ext {
namespace {

constexpr int kWarps = kThreads / kLanes;
constexpr int kOfLane = kGroup / kLanes;  // logits of a group that a lane takes

template <typename T>
struct Task {
  Focal focal;
  FocalTensors<T> tensors;
  LabelBegins begins;
};

// A logit's share, times a scale; 0 where its anchor takes no part, and no number where a match or a label is none of
// the image's.
template <bool kLoss, bool kTwo, typename T>
__device__ inline Computed<T> share_at(const Task<T>& task, std::int32_t image, std::int64_t at, Computed<T> scale) {
  using C = Computed<T>;
  const Focal& focal = task.focal;
  const std::int64_t anchor = divide(at, focal.by_classes),
                     matched = task.tensors.matched[image * focal.anchors + anchor];
  if (matched == kIgnoredAnchor) return 0;
  bool is_own = false;
  if (matched >= 0) {
    const std::int64_t begin = task.begins.begins[image], count = task.begins.begins[image + 1] - begin;
    const std::int64_t label = matched < count ? task.tensors.labels[begin + matched] : -1;
    if (label < 0 || label >= focal.classes) return static_cast<C>(double_of(std::int64_t{0x7ff8000000000000}));
    is_own = at - anchor * focal.classes == label;
  }
  const C x = computed(task.tensors.logits[image * logits_of_image(focal) + at]);
  return share_of<kLoss, kTwo>(x, is_own, static_cast<C>(alpha_own(focal)), static_cast<C>(alpha_other(focal)),
                               static_cast<C>(focal.gamma)) *
         scale;
}

template <typename Number>
__device__ inline Number sum_of_warp(Number number) {
#pragma unroll
  for (int half = kLanes / 2; half > 0; half /= 2) number += __shfl_down_sync(0xffffffffu, number, half);
  return number;
}

// The sum of a tile's losses, and how many positive anchors begin in it.
template <bool kTwo, typename T>
__global__ void __launch_bounds__(kThreads)
    tiles_kernel(const __grid_constant__ Task<T> task, double* sums, std::int32_t* positives) {
  using C = Computed<T>;
  __shared__ C of_groups[kGroupsOfTile];
  __shared__ std::int32_t counts[kWarps];
  const auto tiles = static_cast<std::int32_t>(tiles_of_image(task.focal));
  const std::int32_t image = static_cast<std::int32_t>(blockIdx.x) / tiles;
  const std::int64_t first =
      (static_cast<std::int64_t>(blockIdx.x) - std::int64_t{image} * tiles) * kGroup * kGroupsOfTile;
  const std::int64_t logits = logits_of_image(task.focal);
  const int warp = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  std::int32_t count = 0;
  for (int group = warp; group < kGroupsOfTile; group += kWarps) {
    C shares[kOfLane];
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) {
      const std::int64_t at = first + group * kGroup + i * kLanes + lane;
      shares[i] = at < logits ? share_at<true, kTwo>(task, image, at, C{1}) : C{0};
      if (at < logits) {
        const std::int64_t anchor = divide(at, task.focal.by_classes);
        count += at == anchor * task.focal.classes && task.tensors.matched[image * task.focal.anchors + anchor] >= 0;
      }
    }
#pragma unroll
    for (int half = kOfLane / 2; half > 0; half /= 2)
#pragma unroll
      for (int i = 0; i < half; ++i) shares[i] += shares[i + half];
    const C sum = sum_of_warp(shares[0]);
    if (lane == 0) of_groups[group] = sum;
  }
  count = sum_of_warp(count);
  if (lane == 0) counts[warp] = count;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double sum = 0;
  std::int32_t all = 0;
  for (int group = 0; group < kGroupsOfTile; ++group) sum += static_cast<double>(of_groups[group]);
  for (int i = 0; i < kWarps; ++i) all += counts[i];
  sums[blockIdx.x] = sum;
  positives[blockIdx.x] = all;
}

template <typename C>
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ Focal focal, const double* sums,
                                                          const std::int32_t* positives, C* loss, double* weights) {
  __shared__ double losses[kMaxLossImages];
  const std::int64_t tiles = tiles_of_image(focal);
  const int warp = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  for (std::int32_t image = warp; image < focal.images; image += kWarps) {
    double sum = 0;
    std::int64_t count = 0;
    for (std::int64_t tile = lane; tile < tiles; tile += kLanes) {
      sum += sums[image * tiles + tile];
      count += positives[image * tiles + tile];
    }
    sum = sum_of_warp(sum);
    count = sum_of_warp(static_cast<long long int>(count));
    if (lane == 0) {
      weights[image] = weight_of(focal, count);
      losses[image] = multiply_rounded(sum, weights[image]);
    }
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  double all = 0;
  for (std::int32_t image = 0; image < focal.images; ++image) all += losses[image];
  *loss = static_cast<C>(all);
}

template <bool kTwo, typename T>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(const __grid_constant__ Task<T> task, const Computed<T>* grad, const double* weights, T* out) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t logits = logits_of_image(task.focal);
  if (at >= logits * task.focal.images) return;
  const auto image = static_cast<std::int32_t>(at / logits);
  const auto scale = static_cast<Computed<T>>(multiply_rounded(static_cast<double>(*grad), weights[image]));
  out[at] = round_to<T>(share_at<false, kTwo>(task, image, at - image * logits, scale));
}

}  // namespace

template <typename T>
void focal_cuda(const Focal& focal, const FocalTensors<T>& tensors, const LabelBegins& begins, double* sums,
                std::int32_t* positives, const FocalResult<T>& result, int device, void* stream) {
  const Task<T> task{focal, tensors, begins};
  const std::int64_t blocks = tiles_of_image(focal) * focal.images;
  launch(focal.gamma == 2 ? tiles_kernel<true, T> : tiles_kernel<false, T>, blocks, device, stream, "focal loss", task,
         sums, positives);
  launch(finish_kernel<Computed<T>>, 1, device, stream, "focal loss", focal, sums, positives, result.loss,
         result.weights);
}

template <typename T>
void focal_gradient_cuda(const Focal& focal, const FocalTensors<T>& tensors, const LabelBegins& begins,
                         const Computed<T>* grad, const double* weights, T* out, int device, void* stream) {
  const Task<T> task{focal, tensors, begins};
  launch(focal.gamma == 2 ? gradient_kernel<true, T> : gradient_kernel<false, T>,
         blocks_of(logits_of_image(focal) * focal.images), device, stream, "focal loss", task, grad, weights, out);
}

#define ANCHOR_EXT_FOCAL(T)                                                                                       \
  template void focal_cuda(const Focal&, const FocalTensors<T>&, const LabelBegins&, double*, std::int32_t*,      \
                           const FocalResult<T>&, int, void*);                                                    \
  template void focal_gradient_cuda(const Focal&, const FocalTensors<T>&, const LabelBegins&, const Computed<T>*, \
                                    const double*, T*, int, void*);
ANCHOR_EXT_FOCAL(float)
ANCHOR_EXT_FOCAL(double)
ANCHOR_EXT_FOCAL(Float16)
ANCHOR_EXT_FOCAL(BFloat16)
#undef ANCHOR_EXT_FOCAL

}  // namespace anchor_ext
