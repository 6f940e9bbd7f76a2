// A machine that runs what nvcc wrote: registers as raw bits, and every operation with the rounding, the clamping and
// the special cases that the PTX ISA gives it. translate.py writes the kernels; runtime.cpp launches them.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

namespace ptx {

__extension__ using int128 = __int128;
__extension__ using uint128 = unsigned __int128;

[[noreturn]] inline void fail(const char* what, std::uint64_t a = 0, std::uint64_t b = 0) {
  std::fprintf(stderr, "ptx: %s (%#llx, %#llx)\n", what, (unsigned long long)a, (unsigned long long)b);
  std::exit(1);
}

// Memory that a launch may touch. Of an output, how often each byte was written; of scratch memory as well, which one
// launch writes for the next one to read. A workspace is written again and again, but in one launch each byte by one
// thread, and read by no other then; or by atomics.
struct Region {
  std::uint64_t begin, bytes;
  enum { input, output, atomics, scratch, workspace } kind;
  std::vector<std::uint8_t> written;
  std::vector<std::uint64_t> writers{};  // of a workspace: the launch and the thread
};

struct Store {
  std::uint64_t address, bytes;
  unsigned char value[32];
};

struct Machine {
  std::vector<Region> regions;
  // Where only some blocks are to run, drawn at random: how many, and what they store, which then goes nowhere else.
  std::int64_t sample = 0;
  std::vector<Store> stores;
  std::vector<std::vector<unsigned char>> parameters;
  std::uint64_t launches = 0;
  struct {  // of the last launch: counts; whether its results are approximations, or hang on the order of threads
    std::uint64_t instructions, float64_operations;
    bool approximates, depends_on_order;
  } last{};
};
inline Machine machine;

// Windows of the generic address space; the lower half of a shared address is what 32 bits hold of it.
constexpr std::uint64_t kParameters = std::uint64_t{0x7a} << 56, kShared = std::uint64_t{0x7b} << 56, kFirst = 1024;
inline std::uint64_t parameter_address(unsigned i) { return kParameters + (std::uint64_t{i} << 32); }

struct Shared {
  std::vector<unsigned char> bytes;
  std::vector<std::int32_t> writer, epoch;  // of each byte's last store; -1: none
  std::int32_t barriers = 0;
};

struct Thread {
  std::uint32_t tid, ctaid, ntid, nctaid;
  Shared* shared;
  bool exchanges;
  void* state_memory;
  std::uint32_t mask = 0, posted = 0, seen[32] = {};  // of an exchange within the warp
  enum { ready, at_barrier, at_exchange, ended } state = ready;
  int resume = 0;

  void count(unsigned instructions, unsigned float64_operations) const {
    machine.last.instructions += instructions;
    machine.last.float64_operations += float64_operations;
  }
  __attribute__((noinline)) void load(std::uint64_t address, void* out, std::size_t bytes, bool cached) const {
    if (address % bytes != 0) fail("a load at a wrong alignment", address, bytes);
    const void* from = reinterpret_cast<const void*>(address);
    if (address >> 56 == kParameters >> 56) {
      const std::uint64_t which = (address - kParameters) >> 32, offset = address & 0xffffffff;
      if (which >= machine.parameters.size() || offset + bytes > machine.parameters[which].size())
        fail("a parameter is read beyond its end", address, bytes);
      from = machine.parameters[which].data() + offset;
    } else if (address >> 56 == kShared >> 56) {
      const std::size_t at = shared_at(address, bytes);
      for (std::size_t i = at; i < at + bytes; ++i)
        if (shared->writer[i] < 0 ||
            (!exchanges && shared->epoch[i] == shared->barriers && shared->writer[i] != static_cast<std::int32_t>(tid)))
          fail("shared memory is read that was not written, or without a barrier behind it", address, bytes);
      from = shared->bytes.data() + at;
    } else if (const Region& region = region_of(address, bytes); region.kind == Region::scratch) {
      for (std::size_t i = 0; i < bytes; ++i)
        if (region.written[address - region.begin + i] == 0) fail("scratch memory is read unwritten", address, bytes);
    } else if (region.kind == Region::workspace && !cached) {
      for (std::uint64_t at = address - region.begin; at < address - region.begin + bytes; ++at)
        if (region.written[at] == 0 || is_of_another(region.writers[at]))
          fail("a workspace is read unwritten, or beside the thread that writes", address, bytes);
    } else if (region.kind == Region::output || (cached && region.kind != Region::input)) {
      fail("memory is read that is to be written", address, bytes);
    }
    std::memcpy(out, from, bytes);
  }
  __attribute__((noinline)) void store(std::uint64_t address, const void* value, std::size_t bytes) const {
    if (address % bytes != 0) fail("a store at a wrong alignment", address, bytes);
    if (address >> 56 == kShared >> 56) {
      const std::size_t at = shared_at(address, bytes);
      std::fill_n(shared->writer.begin() + at, bytes, static_cast<std::int32_t>(tid));
      std::fill_n(shared->epoch.begin() + at, bytes, shared->barriers);
      std::memcpy(shared->bytes.data() + at, value, bytes);
    } else if (machine.sample != 0) {
      machine.stores.push_back({address, bytes, {}});
      std::memcpy(machine.stores.back().value, value, bytes);
    } else {
      Region& region = region_of(address, bytes);
      if (region.kind == Region::input || region.kind == Region::atomics)
        fail("a store to what is not an output", address, bytes);
      for (std::uint64_t at = address - region.begin; at < address - region.begin + bytes; ++at) {
        if (region.kind != Region::workspace) {
          if (++region.written[at] != 1) fail("a byte is written twice", region.begin + at, bytes);
          continue;
        }
        if (is_of_another(region.writers[at])) fail("two threads write the same byte", region.begin + at, bytes);
        region.written[at] = 1;
        region.writers[at] = writer();
      }
      std::memcpy(reinterpret_cast<void*>(address), value, bytes);
    }
  }
  // `next(old)` is stored; the result is `old`.
  template <typename T, typename Next>
  T atomic(std::uint64_t address, const Next& next) const {
    if (address % sizeof(T) != 0) fail("an atomic at a wrong alignment", address, sizeof(T));
    void* memory = reinterpret_cast<void*>(address);
    if (address >> 56 == kShared >> 56) {
      const std::size_t at = shared_at(address, sizeof(T));
      if (shared->writer[at] < 0) fail("an atomic on unwritten memory", address);
      memory = shared->bytes.data() + at;
    } else if (const Region& region = region_of(address, sizeof(T)); region.kind == Region::workspace) {
      const std::uint64_t at = address - region.begin;
      if (region.written[at] == 0 || region.writers[at] >> 40 == machine.launches)
        fail("an atomic on unwritten memory, or beside a store", address, sizeof(T));
    } else if (region.kind != Region::atomics) {
      fail("an atomic on other memory", address, sizeof(T));
    }
    if (std::is_floating_point_v<T>) machine.last.depends_on_order = true;
    T old;
    std::memcpy(&old, memory, sizeof old);
    const T value = next(old);
    std::memcpy(memory, &value, sizeof value);
    return old;
  }
  // Waits until every lane of the mask has posted; then `seen` has what they did.
  void exchange(std::uint32_t lanes, std::uint32_t value) {
    if ((lanes >> (tid % 32) & 1) == 0) fail("a lane is missing in its own mask", lanes, tid);
    mask = lanes, posted = value, state = at_exchange;
  }
  // `c`: the clamp, and the lanes' segments; see shfl in the ISA.
  std::uint32_t shuffle(char mode, std::uint32_t b, std::uint32_t c, bool& in_range) const {
    const std::uint32_t lane = tid % 32, segment = c >> 8 & 31, least = lane & segment;
    const auto most = static_cast<std::int32_t>(least | (c & 31 & ~segment));
    const auto from = static_cast<std::int32_t>(mode == 'u'   ? lane - (b & 31)
                                                : mode == 'd' ? lane + (b & 31)
                                                : mode == 'b' ? lane ^ (b & 31)
                                                              : least | (b & 31 & ~segment));
    in_range = mode == 'u' ? from >= most : from <= most;
    const std::uint32_t source = in_range ? static_cast<std::uint32_t>(from) : lane;
    if ((mask >> source & 1) == 0) fail("a shuffle from a lane that takes no part", source, mask);
    return seen[source];
  }
  std::uint32_t ballot() const {
    std::uint32_t lanes = 0;
    for (std::uint32_t i = 0; i < 32; ++i) lanes |= std::uint32_t{(mask >> i & 1) != 0 && seen[i] != 0} << i;
    return lanes;
  }

 private:
  std::uint64_t writer() const { return machine.launches << 40 | std::uint64_t{ctaid} * ntid + tid; }
  bool is_of_another(std::uint64_t one) const { return one >> 40 == machine.launches && one != writer(); }
  std::size_t shared_at(std::uint64_t address, std::size_t bytes) const {
    const std::uint64_t offset = (address & 0xffffffff) - kFirst;
    if (offset + bytes > shared->bytes.size()) fail("shared memory beyond its end", address, bytes);
    return offset;
  }
  static Region& region_of(std::uint64_t address, std::size_t bytes) {
    for (Region& region : machine.regions)
      if (address >= region.begin && address + bytes <= region.begin + region.bytes) return region;
    fail("memory outside of all that was given", address, bytes);
  }
};

struct Kernel {
  const char* name;
  void (*run)(Thread&);  // until the thread waits or ends
  std::size_t state_bytes;
  std::uint32_t shared_bytes, most_threads;
  bool exchanges;
  struct Parameter {
    std::size_t bytes, alignment;
  };
  std::vector<Parameter> parameters;
};
inline std::vector<Kernel>& kernels() {
  static std::vector<Kernel> kernels;
  return kernels;
}
inline bool add(const Kernel& kernel) { return kernels().push_back(kernel), true; }

template <typename T, typename Register>
T get(Register bits) {
  if constexpr (std::is_same_v<T, float>)
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits));
  else if constexpr (std::is_same_v<T, double>)
    return std::bit_cast<double>(static_cast<std::uint64_t>(bits));
  else
    return static_cast<T>(bits);
}
template <typename T>
auto bits(T value) {  // of a NaN those that the hardware gives
  if constexpr (std::is_same_v<T, float>)
    return std::isnan(value) ? 0x7fffffffu : std::bit_cast<std::uint32_t>(value);
  else if constexpr (std::is_same_v<T, double>)
    return std::isnan(value) ? UINT64_C(0x7fffffffffffffff) : std::bit_cast<std::uint64_t>(value);
  else
    return value;  // a register takes its lower bits, extended by the sign where it has one
}
template <typename T>
T flushed(T value) {
  return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(T{0}, value) : value;
}
template <typename T>
T shift_left(T value, std::uint32_t n) {
  return n >= 8 * sizeof(T) ? T{0} : static_cast<T>(value << n);
}
template <typename T>
T shift_right(T value, std::uint32_t n) {
  return n < 8 * sizeof(T) ? static_cast<T>(value >> n) : value < 0 ? T(-1) : T{0};
}
template <typename T>
T divide(T a, T b, bool remainder) {
  if (b == 0) fail("a division by zero");
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return remainder ? T{0} : static_cast<T>(T{0} - a);
  return static_cast<T>(remainder ? a % b : a / b);
}
template <typename T>
T least(T a, T b, bool most) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) ? b : a;
    if (a == b) return std::signbit(a) != most ? a : b;
  }
  return (b < a) != most ? b : a;
}
// The last bits of `a` in place of some of b's.
template <typename T>
T inserted(T a, T b, std::uint32_t from, std::uint32_t count) {
  const std::uint32_t most = sizeof(T) * 8;
  const T ones = (count & 255) >= most ? T(-1) : static_cast<T>((T{1} << (count & 255)) - 1);
  const T mask = shift_left(ones, from & 255);
  return static_cast<T>((b & ~mask) | (shift_left(a, from & 255) & mask));
}
inline std::uint32_t bit_field(std::uint32_t a, std::uint32_t from, std::uint32_t count) {
  return shift_right(a, from & 255) & ((count & 255) >= 32 ? ~0u : (1u << (count & 255)) - 1);
}
// Float to integer: rounded by `mode`, clamped; no number becomes 0.
template <typename T, typename F>
T to_integer(F value, char mode) {
  using Limits = std::numeric_limits<T>;
  if (std::isnan(value)) return 0;
  value = mode == 'z'   ? std::trunc(value)
          : mode == 'n' ? std::nearbyint(value)
          : mode == 'm' ? std::floor(value)
                        : std::ceil(value);
  if (value <= static_cast<F>(Limits::min())) return Limits::min();
  return value >= static_cast<F>(Limits::max()) ? Limits::max() : static_cast<T>(value);
}
inline std::uint16_t half_of(double value) {
  return std::isnan(value) ? 0x7fff : std::bit_cast<std::uint16_t>(static_cast<_Float16>(value));
}
inline float of_half(std::uint16_t value) { return static_cast<float>(std::bit_cast<_Float16>(value)); }

}  // namespace ptx
