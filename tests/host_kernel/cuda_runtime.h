// The part of CUDA that csrc/anchors/anchors_cuda.cu uses, for a host compiler: a launch calls the kernel for one
// thread after another, in an order of its own. The kernel is a pure map, so any order must do.
#pragma once

#include <cstddef>
#include <cstdint>

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(threads)

struct dim3 {
  unsigned x;
  dim3(unsigned x_ = 1) : x(x_) {}
};
inline dim3 blockIdx, threadIdx;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline void (*after_each_thread)(std::int64_t thread) = nullptr;

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  const std::uint64_t threads = std::uint64_t{config->gridDim.x} * config->blockDim.x;
  std::uint64_t step = 2654435761u % threads;  // coprime to the number of threads: every one of them comes up once
  const auto coprime = [](std::uint64_t a, std::uint64_t b) {
    while (b != 0) a %= b, a ^= b, b ^= a, a ^= b;
    return a == 1;
  };
  while (threads > 1 && (step == 0 || !coprime(step, threads))) ++step;
  std::uint64_t thread = threads / 3;
  for (std::uint64_t i = 0; i < threads; ++i, thread = (thread + step) % threads) {
    blockIdx = dim3(static_cast<unsigned>(thread / config->blockDim.x));
    threadIdx = dim3(static_cast<unsigned>(thread % config->blockDim.x));
    kernel(arguments...);
    if (after_each_thread != nullptr) after_each_thread(static_cast<std::int64_t>(thread));
  }
  return cudaSuccess;
}
