// What cases with several inputs and scratch memory share.
#pragma once

#include <cstring>
#include <type_traits>
#include <vector>

#include "cases.h"

namespace cases {

using anchor_ext::BFloat16;
using anchor_ext::Float16;

template <typename T>
constexpr Dtype kDtype = sizeof(T) == 8               ? Dtype::float64
                         : sizeof(T) == 4             ? Dtype::float32
                         : std::is_same_v<T, Float16> ? Dtype::float16
                                                      : Dtype::bfloat16;

// One after another in memory, each from a multiple of 16 bytes on.
struct Input {
  Bytes bytes;
  template <typename Item>
  std::size_t add(const std::vector<Item>& items) {
    const std::size_t at = (bytes.size() + 15) / 16 * 16;
    bytes.resize(at + items.size() * sizeof(Item));
    std::memcpy(bytes.data() + at, items.data(), items.size() * sizeof(Item));
    return at;
  }
};

template <typename T>
inline const T* at(const void* memory, std::size_t offset) {
  return reinterpret_cast<const T*>(static_cast<const unsigned char*>(memory) + offset);
}

// A launch's scratch memory.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes, bool is_workspace = false) : host_(bytes / 8 + 1) {
#if defined(ANCHOR_EXT_DEVICE)
    (void)is_workspace;
    check(cudaMalloc(&memory_, bytes + 8));
#else
    memory_ = host_.data();
    const auto kind = is_workspace ? ptx::Region::workspace : ptx::Region::scratch;
    ptx::machine.regions.push_back({reinterpret_cast<std::uint64_t>(memory_), bytes, kind, Bytes(bytes),
                                    std::vector<std::uint64_t>(is_workspace ? bytes : 0)});
#endif
  }
  ~Scratch() {
#if defined(ANCHOR_EXT_DEVICE)
    cudaDeviceSynchronize();
    cudaFree(memory_);
#endif
  }
  template <typename Item>
  Item* as() const {
    return static_cast<Item*>(memory_);
  }

 private:
  std::vector<std::uint64_t> host_;
  void* memory_ = nullptr;
};

// The bytes of some numbers.
template <typename T>
Bytes bytes_in(const std::vector<T>& numbers) {
  const auto* const bytes = reinterpret_cast<const unsigned char*>(numbers.data());
  return Bytes(bytes, bytes + numbers.size() * sizeof(T));
}

}  // namespace cases
