// The greatest logits of each level of each image, in launches that depend on nothing but shapes.
//
// A logit's key holds its order in the upper 32 bits and the bitwise complement of its index in the lower 32: keys are
// distinct, and of equal logits the smaller index comes first. Mostly few logits are above the bound: these are
// gathered and sorted by one block. More than one block sorts go through a radix select: a round counts how many keys
// have each next digit, and the floor moves up to the digit at which enough are left. Rounds after that do nothing.
#include "core/launch.h"
#include "select/select.h"

namespace anchor_ext {
namespace {

constexpr int kWarp = 32, kWarps = kThreads / kWarp;
constexpr int kDigit = 11, kRounds = 6;  // 11 bits of a key a round, until its 64 are known
constexpr int kBinsOfThread = kBins / kThreads;

__device__ inline int shift_of(int round) { return round == kRounds - 1 ? 0 : 64 - kDigit * (round + 1); }
__device__ inline int digits_above(int round) { return 64 - kDigit * round; }  // the shift of what is known already

struct Own {
  std::int32_t image, level, part;
  std::int64_t begin, end;  // the block's logits, in the level
};

__device__ inline Own own_tile(const Selecting& selecting) {
  const std::int64_t image = blockIdx.x / selecting.tiles, tile = blockIdx.x - image * selecting.tiles;
  std::int32_t level = 0;
  while (level + 1 < selecting.num_levels && selecting.levels[level + 1].tile <= tile) ++level;
  const std::int64_t begin = (tile - selecting.levels[level].tile) * kSelectTile, count = selecting.levels[level].count;
  return {static_cast<std::int32_t>(image), level, static_cast<std::int32_t>(image) * selecting.num_levels + level,
          begin, begin + kSelectTile < count ? begin + kSelectTile : count};
}

// Calls per_key(key) for each logit of the block's that takes part.
template <typename Bits, typename PerKey>
__device__ inline void for_keys(const Selecting& selecting, const Own& own, const PerKey& per_key) {
  constexpr int kAtOnce = 8;
  const SelectLevel& level = selecting.levels[own.level];
  const Bits* const logits = static_cast<const Bits*>(level.memory) + own.image * level.stride;
  for (std::int64_t first = own.begin + threadIdx.x; first < own.end; first += kAtOnce * kThreads) {
    std::int32_t orders[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const std::int64_t at = first + i * kThreads;
      orders[i] = at < own.end ? order_of(logits[at]) : INT32_MIN;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (orders[i] <= selecting.above || orders[i] > selecting.most) continue;
      const std::int64_t flat = level.flattened(first + i * kThreads, selecting.classes);
      const std::uint32_t high = static_cast<std::uint32_t>(orders[i]) ^ 0x80000000u;
      per_key(std::uint64_t{high} << 32 | static_cast<std::uint32_t>(~static_cast<std::uint32_t>(flat)));
    }
  }
}

// The histogram of the next digit, over the keys whose known digits equal the floor's.
template <typename Bits>
__global__ void __launch_bounds__(kThreads)
    count_kernel(const __grid_constant__ Selecting selecting, const __grid_constant__ SelectMemory memory, int round) {
  __shared__ std::uint32_t bins[kBins];
  const Own own = own_tile(selecting);
  const SelectState state = memory.states[own.part];
  if (state.done) return;
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) bins[bin] = 0;
  __syncthreads();
  for_keys<Bits>(selecting, own, [&](std::uint64_t key) {
    if (round > 0 && (key ^ state.floor) >> digits_above(round) != 0) return;
    atomicAdd(&bins[key >> shift_of(round) & (kBins - 1)], 1u);
  });
  __syncthreads();
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads)
    if (bins[bin] != 0) atomicAdd(&memory.bins[own.part * std::int64_t{kBins} + bin], bins[bin]);
}

// The next digit of the floor: that of the last key which is to be kept. A block per part; a thread has bins side by
// side, the first one the highest.
__global__ void __launch_bounds__(kThreads)
    choose_kernel(const __grid_constant__ Selecting selecting, const __grid_constant__ SelectMemory memory, int round) {
  __shared__ std::uint32_t of_warps[kWarps];
  SelectState& state = memory.states[blockIdx.x];
  const SelectState before = state;
  if (before.done) return;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  std::uint32_t* const bins = memory.bins + blockIdx.x * std::int64_t{kBins};
  const int top = kBins - 1 - static_cast<int>(threadIdx.x) * kBinsOfThread;
  std::uint32_t counts[kBinsOfThread], own = 0;
#pragma unroll
  for (int i = 0; i < kBinsOfThread; ++i) {
    own += counts[i] = bins[top - i];
    bins[top - i] = 0;
  }
  std::uint32_t through = own;  // keys with these digits or higher ones
#pragma unroll
  for (int lanes = 1; lanes < kWarp; lanes *= 2) {
    const std::uint32_t lower = __shfl_up_sync(0xffffffffu, through, lanes);
    if (lane >= lanes) through += lower;
  }
  if (lane == kWarp - 1) of_warps[warp] = through;
  __syncthreads();
  std::uint32_t all = 0;
  for (int i = 0; i < kWarps; ++i) {
    if (i < warp) through += of_warps[i];
    all += of_warps[i];
  }
  if (round == 0 && all <= kMostKept) {
    if (threadIdx.x == 0) state.done = 1;
    return;
  }
  const auto kept = static_cast<std::uint32_t>(selecting.levels[blockIdx.x % selecting.num_levels].kept);
  const std::uint32_t wanted = round == 0 ? kept : static_cast<std::uint32_t>(before.remaining);
  std::uint32_t above = through - own;
  if (above >= wanted || through < wanted) return;  // the last key is another thread's
  for (int i = 0; i < kBinsOfThread; ++i) {
    if (above + counts[i] >= wanted) {
      state.floor = before.floor | static_cast<std::uint64_t>(top - i) << shift_of(round);
      state.remaining = static_cast<std::int32_t>(wanted - above);
      state.done = kept - wanted + above + counts[i] <= kMostKept;
      return;
    }
    above += counts[i];
  }
}

template <typename Bits>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const __grid_constant__ Selecting selecting, const __grid_constant__ SelectMemory memory) {
  const Own own = own_tile(selecting);
  SelectState& state = memory.states[own.part];
  const std::uint64_t floor = state.floor;
  for_keys<Bits>(selecting, own, [&](std::uint64_t key) {
    if (key >= floor) memory.keys[own.part * std::int64_t{kMostKept} + atomicAdd(&state.found, 1)] = key;
  });
}

// A block per part: sorts its keys, the greatest first (K. E. Batcher's bitonic sort), and writes what they stand for.
template <typename Bits>
__global__ void __launch_bounds__(kThreads)
    sort_kernel(const __grid_constant__ Selecting selecting, const __grid_constant__ SelectMemory memory,
                const __grid_constant__ Greatest<Bits> result) {
  __shared__ std::uint64_t keys[kMostKept];
  const std::int32_t found = memory.states[blockIdx.x].found, image = blockIdx.x / selecting.num_levels;
  const SelectLevel& level = selecting.levels[blockIdx.x % selecting.num_levels];
  std::int32_t size = 1;
  while (size < found) size *= 2;
  for (std::int32_t i = threadIdx.x; i < size; i += kThreads)
    keys[i] = i < found ? memory.keys[blockIdx.x * std::int64_t{kMostKept} + i] : 0;
  for (std::int32_t run = 2; run <= size; run *= 2)
    for (std::int32_t apart = run / 2; apart > 0; apart /= 2) {
      __syncthreads();
      for (std::int32_t i = threadIdx.x; i < size; i += kThreads) {
        const std::int32_t other = i ^ apart;
        if (other < i || (keys[i] < keys[other]) != ((i & run) == 0)) continue;
        const std::uint64_t key = keys[i];
        keys[i] = keys[other];
        keys[other] = key;
      }
    }
  __syncthreads();
  for (std::int32_t i = threadIdx.x; i < level.kept; i += kThreads) {
    const std::int64_t to = image * selecting.slots + level.slot + i;
    const std::uint64_t key = i < found ? keys[i] : 0;
    const auto order = static_cast<std::int32_t>(static_cast<std::uint32_t>(key >> 32) ^ 0x80000000u);
    const std::int64_t flat = static_cast<std::uint32_t>(~static_cast<std::uint32_t>(key));
    result.logits[to] = i < found ? order_of(static_cast<Bits>(order)) : Bits{0};
    result.index[to] = i < found ? level.begin + flat / selecting.classes : 0;
    result.labels[to] = i < found ? flat % selecting.classes : -1;
  }
}

// A block per image.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    pack_kernel(const __grid_constant__ Selecting selecting, const __grid_constant__ SelectMemory memory,
                const T* scores, const std::int64_t* index, const std::int64_t* labels, double threshold,
                const __grid_constant__ Selected<T> result) {
  __shared__ std::int32_t of_warps[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t first = blockIdx.x * selecting.slots;
  std::int64_t count = 0;
  for (std::int32_t l = 0; l < selecting.num_levels; ++l) {
    const SelectLevel& level = selecting.levels[l];
    const std::int32_t found = memory.states[blockIdx.x * selecting.num_levels + l].found;
    const std::int32_t end = min(found, level.kept);
    for (std::int32_t begin = 0; begin < end; begin += kThreads) {
      const std::int32_t i = begin + static_cast<std::int32_t>(threadIdx.x);
      const std::int64_t from = first + level.slot + i;
      const double score = i < end ? static_cast<double>(widened(scores[from])) : threshold;
      const bool is = score > threshold;
      const unsigned mask = __ballot_sync(0xffffffffu, is);
      if (lane == 0) of_warps[warp] = __popc(mask);
      __syncthreads();
      std::int64_t place = first + count + __popc(mask & ((1u << lane) - 1));
      for (int w = 0; w < kWarps; ++w) {
        if (w < warp) place += of_warps[w];
        count += of_warps[w];
      }
      if (is) {
        result.scores[place] = scores[from];
        result.index[place] = index[from];
        result.labels[place] = labels[from];
      }
      __syncthreads();
    }
  }
  for (std::int64_t i = count + threadIdx.x; i < selecting.slots; i += kThreads) {
    result.scores[first + i] = T{};
    result.index[first + i] = 0;
    result.labels[first + i] = -1;
  }
  if (threadIdx.x == 0) result.counts[blockIdx.x] = count;
}

}  // namespace

template <typename Bits>
void greatest_cuda(const Selecting& selecting, void* memory, const Greatest<Bits>& result, int device, void* stream) {
  const SelectMemory own(memory, selecting.parts());
  const std::int64_t blocks = selecting.images * selecting.tiles;
  check(cudaSetDevice(device), "choosing the device");  // the memory is cleared before the first launch does it
  check(cudaMemsetAsync(memory, 0, static_cast<std::size_t>(selecting.parts() * SelectMemory::kZeroed),
                        static_cast<cudaStream_t>(stream)),
        "clearing memory for select");
  for (int round = 0; round < kRounds; ++round) {
    launch(count_kernel<Bits>, blocks, device, stream, "the launch of select's count_kernel", selecting, own, round);
    launch(choose_kernel, selecting.parts(), device, stream, "the launch of select's choose_kernel", selecting, own,
           round);
  }
  launch(gather_kernel<Bits>, blocks, device, stream, "the launch of select's gather_kernel", selecting, own);
  launch(sort_kernel<Bits>, selecting.parts(), device, stream, "the launch of select's sort_kernel", selecting, own,
         result);
}

template <typename T>
void pack_cuda(const Selecting& selecting, const void* memory, const T* scores, const std::int64_t* index,
               const std::int64_t* labels, double threshold, const Selected<T>& result, int device, void* stream) {
  launch(pack_kernel<T>, selecting.images, device, stream, "the launch of select's pack_kernel", selecting,
         SelectMemory(const_cast<void*>(memory), selecting.parts()), scores, index, labels, threshold, result);
}

template void greatest_cuda(const Selecting&, void*, const Greatest<std::int16_t>&, int, void*);
template void greatest_cuda(const Selecting&, void*, const Greatest<std::int32_t>&, int, void*);
template void pack_cuda(const Selecting&, const void*, const float*, const std::int64_t*, const std::int64_t*, double,
                        const Selected<float>&, int, void*);
template void pack_cuda(const Selecting&, const void*, const Float16*, const std::int64_t*, const std::int64_t*, double,
                        const Selected<Float16>&, int, void*);
template void pack_cuda(const Selecting&, const void*, const BFloat16*, const std::int64_t*, const std::int64_t*,
                        double, const Selected<BFloat16>&, int, void*);

}  // namespace anchor_ext
