// The part of libcudart that nvcc's host code calls: a launch runs the translated kernel, in an order drawn at random.
// The device's memory is the host's. Device 0 is a large one; device 1 is so small that small outputs are shared out as
// large ones are on others.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <string>

#include "machine.h"

namespace ptx {
namespace {

std::map<const void*, std::string>& names() {
  static std::map<const void*, std::string> names;
  return names;
}

std::mt19937_64& order() {
  static std::mt19937_64 order([] {
    const char* const given = std::getenv("ANCHOR_EXT_SEED");
    const std::uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::fprintf(stderr, "ptx: the order of threads is that of ANCHOR_EXT_SEED=%llu\n", (unsigned long long)seed);
    return seed;
  }());
  return order;
}

// Runs threads, one at a time, until all have ended; those that wait go on when all others of theirs do.
void run_block(const Kernel& kernel, std::vector<Thread>& threads) {
  std::vector<std::size_t> all(threads.size()), ready(threads.size());
  std::iota(all.begin(), all.end(), 0);
  ready = all;
  while (!ready.empty()) {
    std::shuffle(ready.begin(), ready.end(), order());
    for (const std::size_t i : ready) kernel.run(threads[i]);
    ready.clear();
    const auto are = [&](const std::vector<std::size_t>& some, auto state) {
      return std::all_of(some.begin(), some.end(), [&](std::size_t i) { return threads[i].state == state; });
    };
    if (are(all, Thread::ended)) return;
    if (are(all, Thread::at_barrier)) {
      ++threads[0].shared->barriers;
      ready = all;
    }
    for (std::size_t i = 0; i < threads.size(); ++i) {
      if (threads[i].state != Thread::at_exchange) continue;
      std::vector<std::size_t> lanes;
      for (std::size_t lane = 0; lane < 32 && i / 32 * 32 + lane < threads.size(); ++lane)
        if (threads[i].mask >> lane & 1) lanes.push_back(i / 32 * 32 + lane);
      if (!are(lanes, Thread::at_exchange)) continue;
      for (const std::size_t lane : lanes) {
        for (const std::size_t other : lanes) threads[lane].seen[other % 32] = threads[other].posted;
        threads[lane].state = Thread::ready;
      }
      ready.insert(ready.end(), lanes.begin(), lanes.end());
    }
    for (const std::size_t i : ready) threads[i].state = Thread::ready;
  }
  fail("threads wait for others that have ended");
}

void run(const Kernel& kernel, std::uint32_t blocks, std::uint32_t block_threads) {
  std::vector<std::uint32_t> which{0, blocks - 1};
  if (machine.sample == 0) {
    which.resize(blocks);
    std::iota(which.begin(), which.end(), 0);
  } else {
    for (std::int64_t i = 0; i < machine.sample; ++i) which.push_back(static_cast<std::uint32_t>(order()() % blocks));
    std::sort(which.begin(), which.end());
    which.erase(std::unique(which.begin(), which.end()), which.end());
  }
  std::shuffle(which.begin(), which.end(), order());
  const std::size_t state = (kernel.state_bytes + 15) / 16 * 16;
  std::vector<unsigned char> states(state * block_threads);
  std::vector<Thread> threads(block_threads);
  Shared shared;
  for (const std::uint32_t block : which) {
    shared.bytes.assign(kernel.shared_bytes, 0xcd);
    shared.writer.assign(kernel.shared_bytes, -1);
    shared.epoch.assign(kernel.shared_bytes, shared.barriers = 0);
    for (std::uint32_t i = 0; i < block_threads; ++i)
      threads[i] = {i, block, block_threads, blocks, &shared, kernel.exchanges, states.data() + state * i};
    run_block(kernel, threads);
  }
}

}  // namespace
}  // namespace ptx

extern "C" {
void** __cudaRegisterFatBinary(void*) { return nullptr; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  ptx::names()[host] = name;
}
cudaError_t cudaSetDevice(int device) { return device == 0 || device == 1 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? (device == 0 ? 132 : 1) : (device == 0 ? 2048 : 32);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  for (ptx::Region& region : ptx::machine.regions) {
    const auto at = reinterpret_cast<std::uint64_t>(memory) - region.begin;
    if (region.kind == ptx::Region::workspace && at < region.bytes) std::fill_n(region.written.begin() + at, bytes, 1);
  }
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) { return "an error"; }
// What nvcc's stubs for <<<>>> refer to, which nothing here calls.
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) { ptx::fail("<<<>>>"); }
cudaError_t __cudaGetKernel(cudaKernel_t*, const void*) { ptx::fail("<<<>>>"); }
unsigned __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { ptx::fail("<<<>>>"); }
cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t) { ptx::fail("<<<>>>"); }

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  const auto kernel = std::find_if(ptx::kernels().begin(), ptx::kernels().end(),
                                   [&](const ptx::Kernel& one) { return one.name == ptx::names()[function]; });
  if (kernel == ptx::kernels().end()) ptx::fail("a kernel without PTX");
  const auto [grid, block, shared, stream, attributes, count] = *config;
  if (grid.y * grid.z * block.y * block.z != 1 || shared != 0 || block.x > kernel->most_threads || grid.x == 0)
    return cudaErrorInvalidConfiguration;
  ptx::machine.parameters.clear();
  std::size_t total = 0;
  for (const auto& [bytes, alignment] : kernel->parameters) {
    total = (total + alignment - 1) / alignment * alignment + bytes;
    const auto* const first = static_cast<const unsigned char*>(*arguments++);
    ptx::machine.parameters.emplace_back(first, first + bytes);
  }
  if (total > 32764) return cudaErrorInvalidValue;
  ptx::machine.last = {};
  ++ptx::machine.launches;
  ptx::run(*kernel, grid.x, block.x);
  return cudaSuccess;
}
}
