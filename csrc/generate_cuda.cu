#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "generate.h"
#include "rounding.h"

namespace anchor_ext {
namespace {

constexpr int kThreads = 256;  // a block; full occupancy on every arch, and no shared memory to share
constexpr std::int64_t kMaxBlocks = (std::int64_t{1} << 31) - 1;  // of a grid's first dimension

// One anchor in the output type, stored in one piece: 16 bytes for float32.
template <typename T>
struct alignas(sizeof(T) < 4 ? 8 : 16) Stored {
  T x1, y1, x2, y2;
};

// Thread i writes anchor i: a pure map, so the order of the threads does not matter.
template <typename T>
__global__ void __launch_bounds__(kThreads) generate_kernel(const __grid_constant__ Pyramid pyramid, T* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= pyramid.num_anchors) return;
  const Box box = anchor_at(pyramid, i);
  const Stored<T> stored{round_to<T>(box.x1), round_to<T>(box.y1), round_to<T>(box.x2), round_to<T>(box.y2)};
  if (reinterpret_cast<std::uintptr_t>(out) % alignof(Stored<T>) == 0) {
    reinterpret_cast<Stored<T>*>(out)[i] = stored;
  } else {  // a view at an odd offset
    out[4 * i] = stored.x1;
    out[4 * i + 1] = stored.y1;
    out[4 * i + 2] = stored.x2;
    out[4 * i + 3] = stored.y2;
  }
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("anchor_ext: ") + what + " failed: " + cudaGetErrorString(error));
}

template <typename T>
void launch(const Pyramid& pyramid, void* out, void* stream) {
  const std::int64_t blocks = (pyramid.num_anchors + kThreads - 1) / kThreads;
  if (blocks > kMaxBlocks)  // 4 TB of the narrowest type: memory ends before
    throw std::runtime_error("anchor_ext: more anchors than one launch can index");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, generate_kernel<T>, pyramid, static_cast<T*>(out)), "the launch of generate");
}

}  // namespace

void generate_cuda(const Pyramid& pyramid, Dtype dtype, void* out, int device, void* stream) {
  if (pyramid.num_anchors == 0) return;
  // The CUDA runtime is linked statically: this copy of it has not seen which device torch made current.
  check(cudaSetDevice(device), "choosing the device");
  switch (dtype) {
    case Dtype::float32:
      return launch<float>(pyramid, out, stream);
    case Dtype::float64:
      return launch<double>(pyramid, out, stream);
    case Dtype::float16:
      return launch<Float16>(pyramid, out, stream);
    case Dtype::bfloat16:
      return launch<BFloat16>(pyramid, out, stream);
  }
}

}  // namespace anchor_ext
