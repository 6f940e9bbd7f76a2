// The part of CUDA that csrc/anchors/anchors_cuda.cu uses, for a host compiler: a launch runs one block after another,
// in an order of its own.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(threads)
#define __shared__ static  // one block at a time

struct dim3 {
  unsigned x;
  dim3(unsigned x_ = 1) : x(x_) {}
};
inline dim3 blockIdx, threadIdx;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxThreadsPerMultiProcessor };
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
// So small a device that small outputs are shared out as large ones are on others.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 3, cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline void (*after_each_block)() = nullptr;

// A block's threads run one after another, first up to the barrier and then whole: what lies before it may be done
// twice. (One barrier at most; tests/ptx has a machine for more.)
inline std::jmp_buf barrier;
inline bool stops_at_barrier = false;
inline void __syncthreads() {
  if (stops_at_barrier) std::longjmp(barrier, 1);
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  const unsigned threads = config->blockDim.x, blocks = config->gridDim.x;
  for (unsigned i = 0; i < blocks; ++i) {
    blockIdx = dim3(i % 2 == 0 ? i / 2 : blocks - 1 - i / 2);
    volatile bool has_barrier = false;
    for (stops_at_barrier = true;; stops_at_barrier = false) {
      for (volatile unsigned k = 0; k < threads; k = k + 1) {
        threadIdx = dim3((k * 101 + i) % threads);  // each of a power of two once
        if (setjmp(barrier) == 0)
          kernel(arguments...);
        else
          has_barrier = true;
      }
      if (!stops_at_barrier || !has_barrier) break;
    }
    if (after_each_block != nullptr) after_each_block();
  }
  return cudaSuccess;
}
