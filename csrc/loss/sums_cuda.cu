// One block, a warp per image.
#include "core/launch.h"
#include "loss/sums.h"

namespace anchor_ext {
namespace {

constexpr int kWarps = kThreads / kLanes;

template <typename Number>
__device__ inline Number sum_of_warp(Number number) {
#pragma unroll
  for (int half = kLanes / 2; half > 0; half /= 2) number += __shfl_down_sync(0xffffffffu, number, half);
  return number;
}

template <typename C>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const __grid_constant__ Summation summation, const double* sums, const std::int32_t* positives,
                  C* loss, double* weights) {
  __shared__ double losses[kMaxLossImages];
  const int warp = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  for (std::int32_t image = warp; image < summation.images; image += kWarps) {
    double sum = 0;
    std::int64_t count = 0;
    for (std::int64_t tile = lane; tile < summation.tiles; tile += kLanes) {
      sum += sums[image * summation.tiles + tile];
      count += positives[image * summation.tiles + tile];
    }
    sum = sum_of_warp(sum);
    count = sum_of_warp(static_cast<long long int>(count));
    if (lane == 0) {
      weights[image] = weight_of(summation, count);
      losses[image] = multiply_rounded(sum, weights[image]);
    }
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  double all = 0;
  for (std::int32_t image = 0; image < summation.images; ++image) all += losses[image];
  *loss = static_cast<C>(all);
}

}  // namespace

template <typename C>
void finish_cuda(const Summation& summation, const double* sums, const std::int32_t* positives,
                 const LossResult<C>& result, int device, void* stream) {
  launch(finish_kernel<C>, 1, device, stream, "the launch of a loss's finish_kernel", summation, sums, positives,
         result.loss, result.weights);
}

template void finish_cuda(const Summation&, const double*, const std::int32_t*, const LossResult<float>&, int, void*);
template void finish_cuda(const Summation&, const double*, const std::int32_t*, const LossResult<double>&, int, void*);

}  // namespace anchor_ext
