// What launchers of CUDA kernels share. For .cu files only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace anchor_ext {

inline constexpr int kThreads = 256;                                     // a block
inline constexpr std::int64_t kMaxBlocks = (std::int64_t{1} << 31) - 1;  // of a grid's first dimension

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("anchor_ext: ") + what + " failed: " + cudaGetErrorString(error));
}

// Blocks of a thread per item.
inline std::int64_t blocks_of(std::int64_t items) { return (items + kThreads - 1) / kThreads; }

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t blocks, int device, void* stream, const char* what,
            const Arguments&... arguments) {
  if (blocks == 0) return;
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

}  // namespace anchor_ext
