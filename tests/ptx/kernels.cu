// Kernels that use all that the machine of this folder has and anchor_ext's own kernels do not yet: shared memory,
// barriers, atomics, a warp's exchanges, approximations.
#include <cuda_runtime.h>

#include "kernels.h"

namespace {

constexpr int kThreads = 256;

// Of a block of numbers: the sum, by shuffles and shared memory; the largest; how many are odd, by votes; the sum of
// exp2(-number), approximately.
__global__ void __launch_bounds__(kThreads) sums_kernel(const int* numbers, int count, Sums* sums, float* powers) {
  __shared__ long long of_warps[kThreads / 32];
  __shared__ int odd;
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), lane = threadIdx.x % 32;
  const int number = i < count ? numbers[i] : 0;
  if (threadIdx.x == 0) odd = 0;
  int sum = number;
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (lane == 0) of_warps[threadIdx.x / 32] = __shfl_sync(1u, sum, 0);
  __syncthreads();
  const unsigned ballot = __ballot_sync(~0u, number & 1);
  if (lane == 0) atomicAdd(&odd, __popc(ballot));
  if (i < count) {
    atomicMax(&sums->largest, number);
    atomicMin(&sums->smallest, static_cast<unsigned long long>(number));
    powers[i] = exp2f(-static_cast<float>(number % 16)) + __log2f(1.0f + number % 16);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    long long of_block = 0;
    for (const long long of_warp : of_warps) of_block += of_warp;
    atomicAdd(&sums->sum, static_cast<unsigned long long>(of_block));
    atomicAdd(&sums->odd, odd);
  }
}

// A block's numbers backwards, by way of shared memory; without the barrier, what is read may not have been written.
template <bool kWaits>
__global__ void __launch_bounds__(kThreads) reverse_kernel(const int* numbers, int* reversed) {
  __shared__ int block[kThreads];
  block[threadIdx.x] = numbers[threadIdx.x];
  if (kWaits) __syncthreads();
  reversed[threadIdx.x] = block[kThreads - 1 - threadIdx.x];
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int blocks, const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace

void launch_sums(const int* numbers, int count, Sums* sums, float* powers) {
  launch(sums_kernel, (count + kThreads - 1) / kThreads, numbers, count, sums, powers);
}
void launch_reverse(const int* numbers, int* reversed, bool waits) {
  launch(waits ? reverse_kernel<true> : reverse_kernel<false>, 1, numbers, reversed);
}
