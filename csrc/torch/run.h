// Where a family's kernels run: on torch's CPU threads, or on torch's current CUDA stream.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <stdexcept>

#include "torch/interface.h"

// Lives in libtorch_cuda, which a CPU build of torch lacks: weak, so that one binary loads with both.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** ret_stream);

namespace anchor_ext {

// `share(begin, end)` for all of 0 .. count-1, in libtorch's own thread pool: it heeds torch.set_num_threads, and no
// second OpenMP runtime competes with it.
template <typename Share>
void on_cpu(std::int64_t count, std::int64_t grain, const Share& share) {
  if (count <= grain) return share(0, count);
  const auto call = [](std::int64_t begin, std::int64_t end, void* context) {
    (*static_cast<const Share*>(context))(begin, end);
  };
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, count, grain, call, const_cast<Share*>(&share)));
}

// `launch(device, stream)` with the device current and its current stream.
template <typename Launch>
void on_cuda(std::int32_t device_index, const Launch& launch) {
#if defined(ANCHOR_EXT_WITH_CUDA)
  if (aoti_torch_get_current_cuda_stream == nullptr)
    throw std::runtime_error("anchor_ext: device is cuda, but this torch is a build without CUDA");
  if (device_index < 0) device_index = torch::stable::accelerator::getCurrentDeviceIndex();
  const torch::stable::accelerator::DeviceGuard guard(device_index);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_index, &stream));
  launch(device_index, stream);
#else
  (void)device_index, (void)launch;
  throw std::runtime_error("anchor_ext: device is cuda, but anchor_ext was built without CUDA");
#endif
}

// One or the other.
template <typename Launch, typename Share>
void run(Place place, std::int64_t count, std::int64_t grain, const Launch& launch, const Share& share) {
  if (place.device == Device::cuda)
    on_cuda(place.index, launch);
  else
    on_cpu(count, grain, share);
}

}  // namespace anchor_ext
