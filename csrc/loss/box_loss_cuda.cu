// A block per tile, a thread per anchor.
#include "core/launch.h"
#include "loss/box_loss.h"

namespace anchor_ext {
namespace {

static_assert(kThreads == kAnchorsOfTile);

template <typename T>
struct Task {
  BoxLoss loss;
  BoxLossTensors<T> tensors;
};

// A thread's anchor, which may be beyond the last one.
struct Own {
  std::int32_t image;
  std::int64_t anchor;
};
__device__ inline Own own_anchor(const BoxLoss& loss) {
  const auto tiles = static_cast<std::int32_t>(tiles_of_image(loss));
  const std::int32_t image = static_cast<std::int32_t>(blockIdx.x) / tiles;
  const std::int32_t tile = static_cast<std::int32_t>(blockIdx.x) - image * tiles;
  return {image, static_cast<std::int64_t>(tile) * kAnchorsOfTile + threadIdx.x};
}

template <typename T>
__device__ inline LossOf loss_at(const Pyramid& pyramid, const Task<T>& task, const BoxBegins& begins, const Own& own) {
  return box_loss_at(pyramid, task.loss, task.tensors, begins.begins[own.image], begins.begins[own.image + 1],
                     own.image, own.anchor);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    box_loss_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Task<T> task,
                    const __grid_constant__ BoxBegins begins, double* sums, std::int32_t* positives) {
  __shared__ double losses[kAnchorsOfTile];
  __shared__ std::int32_t counts[kAnchorsOfTile];
  const Own own = own_anchor(task.loss);
  const bool exists = own.anchor < task.loss.anchors;
  counts[threadIdx.x] = exists && task.tensors.matched[own.image * task.loss.anchors + own.anchor] >= 0;
  losses[threadIdx.x] = counts[threadIdx.x] != 0 ? loss_at(pyramid, task, begins, own).loss : 0;
  for (int half = kAnchorsOfTile / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < static_cast<unsigned>(half)) {
      losses[threadIdx.x] += losses[threadIdx.x + half];
      counts[threadIdx.x] += counts[threadIdx.x + half];
    }
  }
  if (threadIdx.x != 0) return;
  sums[blockIdx.x] = losses[0];
  positives[blockIdx.x] = counts[0];
}

template <typename T, typename C>
__global__ void __launch_bounds__(kThreads)
    box_loss_gradient_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Task<T> task,
                             const __grid_constant__ BoxBegins begins, const C* grad, const double* weights, T* out) {
  const Own own = own_anchor(task.loss);
  if (own.anchor >= task.loss.anchors) return;
  const LossOf made = loss_at(pyramid, task, begins, own);
  const double scale = multiply_rounded(static_cast<double>(*grad), weights[own.image]);
  T* const to = out + 4 * (own.image * task.loss.anchors + own.anchor);
  for (int k = 0; k < 4; ++k) to[k] = round_to<T>(made.by[k] == 0 ? 0 : multiply_rounded(made.by[k], scale));
}

static_assert(sizeof(Pyramid) + sizeof(Task<float>) + sizeof(BoxBegins) + 128 <= 32764,
              "all must fit a kernel's parameters");

}  // namespace

template <typename T>
void box_loss_tiles_cuda(const Pyramid& pyramid, const BoxLoss& loss, const BoxLossTensors<T>& tensors,
                         const BoxBegins& begins, double* sums, std::int32_t* positives, int device, void* stream) {
  launch(box_loss_kernel<T>, tiles_of_image(loss) * loss.images, device, stream, "the launch of box_loss", pyramid,
         Task<T>{loss, tensors}, begins, sums, positives);
}

template <typename T, typename C>
void box_loss_gradient_cuda(const Pyramid& pyramid, const BoxLoss& loss, const BoxLossTensors<T>& tensors,
                            const BoxBegins& begins, const C* grad, const double* weights, T* out, int device,
                            void* stream) {
  launch(box_loss_gradient_kernel<T, C>, tiles_of_image(loss) * loss.images, device, stream,
         "the launch of box_loss's gradient", pyramid, Task<T>{loss, tensors}, begins, grad, weights, out);
}

#define ANCHOR_EXT_BOX_LOSS(T, C)                                                                                  \
  template void box_loss_tiles_cuda(const Pyramid&, const BoxLoss&, const BoxLossTensors<T>&, const BoxBegins&,    \
                                    double*, std::int32_t*, int, void*);                                           \
  template void box_loss_gradient_cuda(const Pyramid&, const BoxLoss&, const BoxLossTensors<T>&, const BoxBegins&, \
                                       const C*, const double*, T*, int, void*);
ANCHOR_EXT_BOX_LOSS(float, float)
ANCHOR_EXT_BOX_LOSS(double, double)
ANCHOR_EXT_BOX_LOSS(Float16, float)
ANCHOR_EXT_BOX_LOSS(BFloat16, float)
#undef ANCHOR_EXT_BOX_LOSS

}  // namespace anchor_ext
