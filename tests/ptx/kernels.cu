// A kernel that uses what the machine of this folder has and anchor_ext's own do not yet: atomics, a warp's exchanges,
// approximations.
#include <cuda_runtime.h>

struct Sums {
  unsigned long long sum, smallest;
  int largest, odd;
};

namespace {

// Of the numbers: the sum, by shuffles and shared memory; the smallest and the largest, by atomics; how many are odd,
// by votes. And for each number 2**-number + log2(1 + number), approximately.
__global__ void sums_kernel(const int* numbers, int count, Sums* sums, float* powers) {
  __shared__ long long of_warps[8];
  __shared__ int odd;
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), lane = threadIdx.x % 32;
  const int number = i < count ? numbers[i] : 0;
  if (threadIdx.x == 0) odd = 0;
  int sum = number + __shfl_xor_sync(~0u, number, 16);
  for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_down_sync(~0u, sum, offset);
  if (lane == 0) of_warps[threadIdx.x / 32] = sum;
  __syncthreads();
  const unsigned ballot = __ballot_sync(~0u, number & 1);
  if (lane == 0) atomicAdd(&odd, __popc(ballot));
  if (i < count) {
    atomicMax(&sums->largest, number);
    atomicMin(&sums->smallest, static_cast<unsigned long long>(number));
    powers[i] = exp2f(-static_cast<float>(number)) + __log2f(1.0f + static_cast<float>(number));
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    long long of_block = 0;
    for (const long long of_warp : of_warps) of_block += of_warp;
    atomicAdd(&sums->sum, static_cast<unsigned long long>(of_block));
    atomicAdd(&sums->odd, odd);
  }
}

}  // namespace

void launch_sums(const int* numbers, int count, Sums* sums, float* powers) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(count + 255) / 256);
  config.blockDim = dim3(256);
  cudaLaunchKernelEx(&config, sums_kernel, numbers, count, sums, powers);
}
