// What the comparisons share. A case writes by a kernel and by the CPU, and compares bits; the first thing that is
// wrong ends the program. Run by the machine of this folder, or with -DANCHOR_EXT_DEVICE by a GPU.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/rounding.h"
#if defined(ANCHOR_EXT_DEVICE)
#include <cuda_runtime.h>
#else
#include "machine.h"
#endif

namespace cases {

using Bytes = std::vector<unsigned char>;
using anchor_ext::Dtype;
using Launch = std::function<void(void* out, const void* input)>;
inline std::mt19937_64 rng(12345);
inline long count = 0;
inline int device = 0;

inline double uniform(double a, double b) { return a + (b - a) * static_cast<double>(rng() >> 11) * 0x1p-53; }
inline std::int64_t integer(std::int64_t a, std::int64_t b) {
  return a + static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(b - a + 1));
}
inline std::size_t size_of(Dtype dtype) { return static_cast<std::size_t>(anchor_ext::bytes_of(dtype)); }

[[noreturn]] inline void wrong(const std::string& what, std::uint64_t at = 0) {
  std::fprintf(stderr, "cases: %s (%llu)\n", what.c_str(), static_cast<unsigned long long>(at));
  std::exit(1);
}

// NaNs are compared as NaNs: the hardware's has other bits than the host's.
inline void compare(const std::string& what, const Bytes& by_cpu, const Bytes& made, Dtype dtype) {
  const auto is_nan = [dtype](const unsigned char* number) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, number, size_of(dtype));
    if (dtype == Dtype::float64) return bits << 1 > std::uint64_t{0x7ff} << 53;
    if (dtype == Dtype::float32) return (bits & 0x7fffffff) > 0x7f800000;
    return (bits & 0x7fff) > (dtype == Dtype::float16 ? 0x7c00u : 0x7f80u);
  };
  ++count;
  if (by_cpu == made) return;
  for (std::size_t i = 0, item = size_of(dtype); i < by_cpu.size(); i += item)
    if (std::memcmp(&by_cpu[i], &made[i], item) != 0 && !(is_nan(&by_cpu[i]) && is_nan(&made[i])))
      wrong(what + ": differs from the CPU at number", i / item);
}

#if defined(ANCHOR_EXT_DEVICE)
inline void check(cudaError_t error) {
  if (error != cudaSuccess) wrong(cudaGetErrorString(error));
}
// The bytes that a launch writes from `misaligned` bytes behind a line on, and nothing beside them.
inline Bytes made(std::size_t bytes, std::size_t misaligned, const Launch& launch, const void* input = nullptr,
                  std::size_t input_bytes = 0) {
  constexpr std::size_t kGuard = 256;
  unsigned char *memory = nullptr, *given = nullptr;
  Bytes all(bytes + 2 * kGuard);
  check(cudaMalloc(&memory, all.size()));
  check(cudaMalloc(&given, input_bytes + 1));
  check(cudaMemset(memory, 0xcd, all.size()));
  check(cudaMemcpy(given, input, input_bytes, cudaMemcpyHostToDevice));
  launch(memory + kGuard + misaligned, given);
  check(cudaMemcpy(all.data(), memory, all.size(), cudaMemcpyDeviceToHost));
  const auto begin = all.begin() + static_cast<std::ptrdiff_t>(kGuard + misaligned);
  const auto end = begin + static_cast<std::ptrdiff_t>(bytes);
  for (auto at = all.begin(); at != all.end(); ++at)
    if ((at < begin || at >= end) && *at != 0xcd) wrong("written outside");
  check(cudaFree(memory));
  check(cudaFree(given));
  return {begin, end};
}
#else
// The bytes that a launch writes from `misaligned` bytes behind a line on, each of them once, and nothing beside them.
inline Bytes made(std::size_t bytes, std::size_t misaligned, const Launch& launch, const void* input = nullptr,
                  std::size_t input_bytes = 0) {
  Bytes memory(bytes + 64);
  unsigned char* const out =
      memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 32) % 32 + misaligned;
  ptx::machine.regions = {{reinterpret_cast<std::uint64_t>(out), bytes, ptx::Region::output, Bytes(bytes)},
                          {reinterpret_cast<std::uint64_t>(input), input_bytes, ptx::Region::input, {}}};
  launch(out, input);
  for (const std::uint8_t times : ptx::machine.regions[0].written)
    if (times != 1) wrong("a byte was not written");
  return {out, out + bytes};
}
// Some blocks of a launch whose output nobody has the memory for, the first and the last among them: of some that they
// store, whether it lies within, lies there once, and is what `item(index)` says.
inline void check_far(const std::string& what, std::int64_t items, std::size_t item_bytes, const Launch& launch,
                      const std::function<Bytes(std::int64_t)>& item) {
  constexpr std::uint64_t kBase = std::uint64_t{1} << 52;
  ptx::machine.sample = 3;
  ptx::machine.stores.clear();
  launch(reinterpret_cast<void*>(kBase), nullptr);
  ptx::machine.sample = 0;
  std::set<std::uint64_t> seen;
  for (std::size_t i = 0; i < ptx::machine.stores.size(); i += 1 + rng() % 16) {
    const ptx::Store& store = ptx::machine.stores[i];
    const std::uint64_t offset = store.address - kBase, index = offset / item_bytes;
    if (offset + store.bytes > static_cast<std::uint64_t>(items) * item_bytes) wrong(what + ": a store outside", index);
    if (!seen.insert(offset).second) wrong(what + ": a store twice", index);
    if (std::memcmp(item(static_cast<std::int64_t>(index)).data() + offset % item_bytes, store.value, store.bytes) != 0)
      wrong(what + ": far out another one than the CPU's", index);
  }
  ++count;
}
#endif

// Each family's, found by their registration.
inline std::vector<void (*)()>& all() {
  static std::vector<void (*)()> all;
  return all;
}
inline bool add(void (*one)()) { return all().push_back(one), true; }

}  // namespace cases
