// A block per tile; where losses are added a warp per group.
#include <algorithm>

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
  BoxBegins begins;
};

// The block's tile.
struct Own {
  std::int32_t image;
  FocalTile tile;
};
__device__ inline Own own_tile(const Focal& focal) {
  const auto tiles = static_cast<std::int32_t>(focal.tiles);
  const std::int32_t image = static_cast<std::int32_t>(blockIdx.x) / tiles;
  return {image, tile_of(focal, static_cast<std::int32_t>(blockIdx.x) - image * tiles)};
}

// What a logit is: of which class, and what its anchor matched.
struct Logit {
  std::int64_t own_class, matched;
};
template <typename T>
__device__ inline Logit logit_at(const Task<T>& task, const Own& own, std::int64_t at) {
  const LogitPlace place = place_of_logit(task.focal, task.focal.parts[own.tile.part], at);
  return {place.own_class, task.tensors.matched[own.image * task.focal.anchors + place.anchor]};
}

// A logit's share, times a scale; 0 where its anchor takes no part, and NaN where a match or a label is none of
// the image's.
template <bool kLoss, bool kTwo, typename T>
__device__ inline Computed<T> share_at(const Task<T>& task, const Own& own, std::int64_t at, const Logit& logit,
                                       double scale) {
  using C = Computed<T>;
  const Focal& focal = task.focal;
  if (logit.matched == kIgnoredAnchor) return 0;
  bool is_own = false;
  if (logit.matched >= 0) {
    const std::int64_t begin = task.begins.begins[own.image], count = task.begins.begins[own.image + 1] - begin;
    const std::int64_t label = logit.matched < count ? task.tensors.labels[begin + logit.matched] : -1;
    if (label < 0 || label >= focal.classes) return static_cast<C>(double_of(kNanBits));
    is_own = logit.own_class == label;
  }
  const std::int32_t part = own.tile.part;
  const C x = widened(task.tensors.logits[part][own.image * logits_of_part(focal, focal.parts[part]) + at]);
  const double alpha = is_own ? alpha_own(focal) : alpha_other(focal);
  return share_of<kLoss, kTwo>(x, is_own, static_cast<C>(multiply_rounded(alpha, scale)), static_cast<C>(focal.gamma));
}

template <typename Number>
__device__ inline Number sum_of_warp(Number number) {
#pragma unroll
  for (int half = kLanes / 2; half > 0; half /= 2) number += __shfl_down_sync(0xffffffffu, number, half);
  return number;
}

// The sum of a tile's losses, and how many positive anchors have their first class in it.
template <bool kTwo, typename T>
__global__ void __launch_bounds__(kThreads)
    focal_kernel(const __grid_constant__ Task<T> task, double* sums, std::int32_t* positives) {
  using C = Computed<T>;
  __shared__ C of_groups[kGroupsOfTile];
  __shared__ std::int32_t counts[kWarps];
  const Own own = own_tile(task.focal);
  const int warp = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  std::int32_t count = 0;
  for (int group = warp; group < kGroupsOfTile; group += kWarps) {
    C shares[kOfLane];
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) {
      const std::int64_t at = own.tile.first + group * kGroup + i * kLanes + lane;
      shares[i] = 0;
      if (at >= own.tile.end) continue;
      const Logit logit = logit_at(task, own, at);
      shares[i] = share_at<true, kTwo>(task, own, at, logit, 1);
      count += logit.own_class == 0 && logit.matched >= 0;
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

template <typename T>
struct Gradients {
  T* parts[kMaxLevels];
};

template <bool kTwo, typename T>
__global__ void __launch_bounds__(kThreads)
    focal_gradient_kernel(const __grid_constant__ Task<T> task, const Computed<T>* grad, const double* weights,
                          const __grid_constant__ Gradients<T> out) {
  const Own own = own_tile(task.focal);
  const double scale = multiply_rounded(static_cast<double>(*grad), weights[own.image]);
  const std::int64_t begin = own.image * logits_of_part(task.focal, task.focal.parts[own.tile.part]);
  for (std::int64_t at = own.tile.first + threadIdx.x; at < own.tile.end; at += kThreads)
    out.parts[own.tile.part][begin + at] =
        round_to<T>(share_at<false, kTwo>(task, own, at, logit_at(task, own, at), scale));
}

static_assert(sizeof(Task<float>) + sizeof(Gradients<float>) + 128 <= 32764, "they must fit a kernel's parameters");

}  // namespace

template <typename T>
void focal_tiles_cuda(const Focal& focal, const FocalTensors<T>& tensors, const BoxBegins& begins, double* sums,
                      std::int32_t* positives, int device, void* stream) {
  launch(focal.gamma == 2 ? focal_kernel<true, T> : focal_kernel<false, T>, focal.tiles * focal.images, device, stream,
         "the launch of focal_loss", Task<T>{focal, tensors, begins}, sums, positives);
}

template <typename T>
void focal_gradient_cuda(const Focal& focal, const FocalTensors<T>& tensors, const BoxBegins& begins,
                         const Computed<T>* grad, const double* weights, T* const* out, int device, void* stream) {
  Gradients<T> gradients{};
  std::copy_n(out, focal.num_parts, gradients.parts);
  launch(focal.gamma == 2 ? focal_gradient_kernel<true, T> : focal_gradient_kernel<false, T>,
         focal.tiles * focal.images, device, stream, "the launch of focal_loss's gradient",
         Task<T>{focal, tensors, begins}, grad, weights, gradients);
}

#define ANCHOR_EXT_FOCAL(T)                                                                                           \
  template void focal_tiles_cuda(const Focal&, const FocalTensors<T>&, const BoxBegins&, double*, std::int32_t*, int, \
                                 void*);                                                                              \
  template void focal_gradient_cuda(const Focal&, const FocalTensors<T>&, const BoxBegins&, const Computed<T>*,       \
                                    const double*, T* const*, int, void*);
ANCHOR_EXT_FOCAL(float)
ANCHOR_EXT_FOCAL(double)
ANCHOR_EXT_FOCAL(Float16)
ANCHOR_EXT_FOCAL(BFloat16)
#undef ANCHOR_EXT_FOCAL

}  // namespace anchor_ext
