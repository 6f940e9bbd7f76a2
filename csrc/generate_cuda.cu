#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "generate.h"

namespace anchor_ext {
namespace {

constexpr int kThreads = 256;  // a block; full occupancy on every arch, and no shared memory to share
constexpr std::int64_t kMaxBlocks = (std::int64_t{1} << 31) - 1;  // of a grid's first dimension

__device__ inline std::int64_t thread_index() { return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

// Four components in the output type, stored in one piece: 16 bytes for float32.
template <typename T>
struct alignas(sizeof(T) < 4 ? 8 : 16) Stored {
  T components[4];
};

// Thread i writes anchor i, or the one at index_at(indices, i): a pure map, so the order of the threads does not
// matter.
template <typename T, bool kPlain>
__global__ void __launch_bounds__(kThreads)
    generate_kernel(const __grid_constant__ Pyramid pyramid, Indices indices, std::int64_t count, T* out) {
  const std::int64_t i = thread_index();
  if (i >= count) return;
  const bool every = kPlain || indices.memory == nullptr;
  const Anchor anchor = anchor_at<kPlain>(pyramid, every ? i : wrapped(pyramid, index_at(indices, i)));
  const int components = kPlain ? 4 : pyramid.layout.components;
  if (components == 4 && reinterpret_cast<std::uintptr_t>(out) % alignof(Stored<T>) == 0) {
    Stored<T> stored;
#pragma unroll
    for (int k = 0; k < 4; ++k) stored.components[k] = round_to<T>(anchor.components[k]);
    reinterpret_cast<Stored<T>*>(out)[i] = stored;
  } else {  // another number of components, or a view at an odd offset
#pragma unroll
    for (int k = 0; k < (kPlain ? 4 : kMaxComponents); ++k)
      if (k < components) out[components * i + k] = round_to<T>(anchor.components[k]);
  }
}

__global__ void __launch_bounds__(kThreads)
    flags_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Question question, bool* out) {
  const std::int64_t i = thread_index();
  if (i < pyramid.num_anchors) out[i] = flag_at(pyramid, question, i);
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("anchor_ext: ") + what + " failed: " + cudaGetErrorString(error));
}

// A thread per item.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t count, int device, void* stream, const char* what,
            const Arguments&... arguments) {
  if (count == 0) return;
  const std::int64_t blocks = (count + kThreads - 1) / kThreads;
  if (blocks > kMaxBlocks)  // half a TB of flags, more of anything else: memory ends before
    throw std::runtime_error("anchor_ext: more anchors than one launch can index");
  // The CUDA runtime is linked statically: this copy of it has not seen which device torch made current.
  check(cudaSetDevice(device), "choosing the device");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, arguments...), what);
}

template <typename T>
void launch_generate(const Pyramid& pyramid, const Indices& indices, std::int64_t count, void* out, int device,
                     void* stream) {
  const auto kernel = pyramid.plain && indices.memory == nullptr ? generate_kernel<T, true> : generate_kernel<T, false>;
  launch(kernel, count, device, stream, "the launch of generate", pyramid, indices, count, static_cast<T*>(out));
}

}  // namespace

void generate_cuda(const Pyramid& pyramid, Dtype dtype, void* out, int device, void* stream) {
  gather_cuda(pyramid, Indices{}, pyramid.num_anchors, dtype, out, device, stream);
}

void gather_cuda(const Pyramid& pyramid, const Indices& indices, std::int64_t count, Dtype dtype, void* out, int device,
                 void* stream) {
  switch (dtype) {
    case Dtype::float32:
      return launch_generate<float>(pyramid, indices, count, out, device, stream);
    case Dtype::float64:
      return launch_generate<double>(pyramid, indices, count, out, device, stream);
    case Dtype::float16:
      return launch_generate<Float16>(pyramid, indices, count, out, device, stream);
    case Dtype::bfloat16:
      return launch_generate<BFloat16>(pyramid, indices, count, out, device, stream);
  }
}

void flags_cuda(const Pyramid& pyramid, const Question& question, bool* out, int device, void* stream) {
  launch(flags_kernel, pyramid.num_anchors, device, stream, "the launch of flags", pyramid, question, out);
}

}  // namespace anchor_ext
