// A thread per anchor, which compares it with its image's boxes, a few hundred of them at a time in shared memory. The
// anchors of a block lie side by side: a box that is apart from all of them has no part in the block.
//
// Where boxes take anchors, a first launch finds every box's best IoU, by maxima that know no order, and a second one,
// where a box takes one anchor alone, the first anchor that has it. The last launch finds every anchor's best box and
// writes the results. What an anchor's IoUs are is computed anew each time: that costs less than to write and to read
// them.
#include "core/launch.h"
#include "match/match.h"

namespace anchor_ext {
namespace {

// What the kernels share beside the pyramid.
template <typename T>
struct Task {
  Rule rule;
  CudaBoxes<T> boxes, regions;
  std::int32_t blocks_per_image;
  Matches<T> matches;
  Key<T>* best;                   // a box's best IoU
  unsigned long long int* first;  // and the first anchor that has it
};

constexpr int kWarp = 32, kWarps = kThreads / kWarp;

template <typename T>
struct Shared {
  Box<T> boxes[kThreads];
  T areas[kThreads];
  std::int32_t numbers[kThreads];  // of the boxes, among all
  Key<T> best[kThreads];
  std::int64_t first[kThreads];
  Box<float> around[kWarps];  // the anchors of each warp
  bool proper[kWarps];
  std::int32_t kept[kWarps];
};

__device__ inline void atomic_max(std::uint32_t* to, std::uint32_t key) { atomicMax(to, key); }
__device__ inline void atomic_max(std::uint64_t* to, std::uint64_t key) {
  atomicMax(reinterpret_cast<unsigned long long int*>(to), static_cast<unsigned long long int>(key));
}

// A thread's anchor, and its image's boxes among all.
struct Own {
  std::int32_t image, begin, end;
  std::int64_t flat;
  bool exists, ignored;
  Box<float> box;
  float area;
};

template <typename T>
__device__ inline Own own_anchor(const Pyramid& pyramid, const Task<T>& task) {
  Own own{};
  own.image = static_cast<std::int32_t>(blockIdx.x) / task.blocks_per_image;
  own.begin = task.boxes.begins.begins[own.image];
  own.end = task.boxes.begins.begins[own.image + 1];
  const std::int32_t block = static_cast<std::int32_t>(blockIdx.x) - own.image * task.blocks_per_image;
  own.flat = static_cast<std::int64_t>(block) * kThreads + threadIdx.x;
  own.exists = own.flat < pyramid.num_anchors;
  if (own.exists) {
    own.box = box_at(pyramid, own.flat);
    own.area = area_of(own.box);
    if (task.regions.boxes != nullptr) {
      const std::int32_t first = task.regions.begins.begins[own.image];
      const Regions<T> regions{task.regions.boxes + first, task.regions.begins.begins[own.image + 1] - first};
      own.ignored = own.begin != own.end && is_ignored(task.rule, regions, own.box, own.area);
    }
  }
  return own;
}

// Whether boxes can be apart from all anchors of the block, and what these lie in.
struct Around {
  bool known;
  Box<float> box;
};

template <typename T>
__device__ inline Around around_block(const Own& own, Shared<T>& shared) {
  const Box<float> mine = own.exists ? own.box : Box<float>{INFINITY, INFINITY, -INFINITY, -INFINITY};
  // No anchor is inverted, and neither its ends nor its area are NaN.
  const bool is_proper = !own.exists || (mine.x1 <= mine.x2 && mine.y1 <= mine.y2 && own.area >= 0);
  Box<float> all = mine;
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    all.x1 = fminf(all.x1, __shfl_xor_sync(0xffffffffu, all.x1, lanes));
    all.y1 = fminf(all.y1, __shfl_xor_sync(0xffffffffu, all.y1, lanes));
    all.x2 = fmaxf(all.x2, __shfl_xor_sync(0xffffffffu, all.x2, lanes));
    all.y2 = fmaxf(all.y2, __shfl_xor_sync(0xffffffffu, all.y2, lanes));
  }
  const bool is_improper = __any_sync(0xffffffffu, !is_proper);
  if (threadIdx.x % kWarp == 0) {
    shared.around[threadIdx.x / kWarp] = all;
    shared.proper[threadIdx.x / kWarp] = !is_improper;
  }
  __syncthreads();
  Around around{true, shared.around[0]};
  for (int warp = 0; warp < kWarps; ++warp) {
    const Box<float>& one = shared.around[warp];
    around.known = around.known && shared.proper[warp];
    around.box = {fminf(around.box.x1, one.x1), fminf(around.box.y1, one.y1), fmaxf(around.box.x2, one.x2),
                  fmaxf(around.box.y2, one.y2)};
  }
  return around;
}

// Its IoU with every anchor of the block is 0 for certain: both areas together are not 0.
template <typename T>
__device__ inline bool is_apart(const Around& around, const Box<T>& box, T area) {
  if (!around.known || !(box.x1 <= box.x2) || !(box.y1 <= box.y2) || !(area > 0)) return false;
  return box.x2 <= around.box.x1 || box.x1 >= around.box.x2 || box.y2 <= around.box.y1 || box.y1 >= around.box.y2;
}

// Calls per_box(number, i, IoU) for each box of the image that is not apart from the block, or that must(number) be
// looked at: the number is its own among all, i its place in shared memory. And before(number, i) and after(number, i),
// each once for each of these boxes, by some thread.
template <typename T, typename Must, typename Before, typename PerBox, typename After>
__device__ inline void for_boxes(const Task<T>& task, const Own& own, Shared<T>& shared, const Must& must,
                                 const Before& before, const PerBox& per_box, const After& after) {
  constexpr int kAtOnce = sizeof(T) == 4 ? 4 : 1;  // registers for more divisions of float64 there are not
  const Around around = around_block(own, shared);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  for (std::int32_t tile = own.begin; tile < own.end; tile += kThreads) {
    const std::int32_t number = tile + static_cast<std::int32_t>(threadIdx.x);
    Box<T> box{};
    T area = 0;
    bool keep = false;
    if (number < own.end) {
      box = task.boxes.boxes[number];
      area = area_of(box);
      keep = !is_apart(around, box, area) || must(number);
    }
    const unsigned kept = __ballot_sync(0xffffffffu, keep);
    if (lane == 0) shared.kept[warp] = __popc(kept);
    __syncthreads();
    std::int32_t place = __popc(kept & ((1u << lane) - 1)), count = 0;
    for (int other = 0; other < kWarps; ++other) {
      if (other < warp) place += shared.kept[other];
      count += shared.kept[other];
    }
    if (keep) {
      shared.boxes[place] = box;
      shared.areas[place] = area;
      shared.numbers[place] = number;
      before(number, place);
    }
    __syncthreads();
#pragma unroll kAtOnce
    for (std::int32_t i = 0; i < count; ++i)
      per_box(shared.numbers[i], i, iou_of(task.rule, shared.boxes[i], shared.areas[i], own.box, own.area));
    __syncthreads();
    if (static_cast<std::int32_t>(threadIdx.x) < count) after(shared.numbers[threadIdx.x], threadIdx.x);
  }
}

// The greatest key of the warp's, in every lane.
template <typename AnyKey>
__device__ inline AnyKey greatest_of_warp(AnyKey key) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const AnyKey other = __shfl_xor_sync(0xffffffffu, key, lanes);
    key = other > key ? other : key;
  }
  return key;
}

// Every box's best IoU.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    best_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Task<T> task) {
  __shared__ Shared<T> shared;
  const Own own = own_anchor(pyramid, task);
  for_boxes(
      task, own, shared, [](std::int32_t) { return false; }, [&](std::int32_t, std::int32_t i) { shared.best[i] = 0; },
      [&](std::int32_t, std::int32_t i, T iou) {
        const Key<T> key = own.exists && !own.ignored ? key_of(iou) : 0;
        if (!__any_sync(0xffffffffu, key != 0)) return;  // as for most boxes: the anchors of a warp lie side by side
        const Key<T> greatest = greatest_of_warp(key);
        if (threadIdx.x % kWarp == 0) atomic_max(&shared.best[i], greatest);
      },
      [&](std::int32_t number, std::int32_t i) {
        if (shared.best[i] != 0) atomic_max(&task.best[number], shared.best[i]);
      });
}

// Every box's first anchor of its best IoU, as the least of them. Where that is 0 all are alike, and nothing is written
// but with regions, which the first ones may lie in.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    first_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Task<T> task) {
  __shared__ Shared<T> shared;
  const Own own = own_anchor(pyramid, task);
  for_boxes(
      task, own, shared, [&](std::int32_t number) { return task.best[number] == 0; },
      [&](std::int32_t number, std::int32_t i) { shared.best[i] = task.best[number]; },
      [&](std::int32_t number, std::int32_t i, T iou) {
        if (!own.exists || own.ignored || (shared.best[i] == 0 && task.regions.boxes == nullptr)) return;
        if (key_of(iou) == shared.best[i])
          atomicMin(&task.first[number], static_cast<unsigned long long int>(own.flat));
      },
      [](std::int32_t, std::int32_t) {});
}

// Every anchor's result.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    result_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Task<T> task) {
  __shared__ Shared<T> shared;
  const Own own = own_anchor(pyramid, task);
  const Rule& rule = task.rule;
  const bool boxes_take = rule.gets != Gets::nothing;
  Key<T> most = 0;
  std::int32_t index = 0, taker = -1;
  for_boxes(
      task, own, shared, [&](std::int32_t number) { return boxes_take && task.best[number] == 0; },
      [&](std::int32_t number, std::int32_t i) {
        if (!boxes_take) return;
        shared.best[i] = task.best[number];
        if (rule.only_first)
          shared.first[i] = task.best[number] == 0 && task.regions.boxes == nullptr
                                ? 0
                                : static_cast<std::int64_t>(task.first[number]);
      },
      [&](std::int32_t number, std::int32_t i, T iou) {
        const Key<T> key = key_of(iou);
        const std::int32_t box = number - own.begin;
        if (key > most) {
          most = key;
          index = box;
        }
        if (!boxes_take) return;
        const T best = iou_of_key(shared.best[i]);
        const bool is_taken = takes(rule, best) && (rule.only_first ? shared.first[i] == own.flat : iou == best);
        if (is_taken && (taker < 0 || rule.gets != Gets::first)) taker = box;
      },
      [](std::int32_t, std::int32_t) {});
  if (!own.exists) return;
  const std::int64_t at = own.image * pyramid.num_anchors + own.flat;
  if (task.matches.iou != nullptr) task.matches.iou[at] = own.ignored ? -1 : iou_of_key(most);
  task.matches.matched[at] = own.begin == own.end ? result_without_boxes(rule)
                             : own.ignored        ? kIgnored
                             : taker < 0          ? result_of(rule, iou_of_key(most), index)
                                                  : low_quality_result(rule, rule.gets == Gets::own ? index : taker);
}

}  // namespace

template <typename T>
void match_cuda(const Pyramid& pyramid, const Rule& rule, const CudaBoxes<T>& boxes, const CudaBoxes<T>& regions,
                const Matches<T>& matches, void* best, int device, void* stream) {
  static_assert(sizeof(Pyramid) + sizeof(Task<T>) + 128 <= 32764, "both must fit a kernel's parameters");
  const std::int32_t images = boxes.begins.num_images, count = boxes.begins.begins[images];
  const std::int64_t blocks = blocks_of(pyramid.num_anchors);
  auto* const first = static_cast<unsigned long long int*>(best) + count;
  Task<T> task{rule, boxes, regions, static_cast<std::int32_t>(blocks), matches, static_cast<Key<T>*>(best), first};
  if (rule.ignored_from == 0) task.regions.boxes = nullptr;
  const auto clear = [&](void* memory, int byte, std::size_t each) {
    check(cudaMemsetAsync(memory, byte, each * static_cast<std::size_t>(count), static_cast<cudaStream_t>(stream)),
          "clearing memory for match");
  };
  if (rule.gets != Gets::nothing && count > 0) {
    check(cudaSetDevice(device), "choosing the device");
    clear(task.best, 0, sizeof(Key<T>));
    launch(best_kernel<T>, blocks * images, device, stream, "the launch of match's best_kernel", pyramid, task);
    if (rule.only_first) {
      clear(first, 0xff, sizeof *first);
      launch(first_kernel<T>, blocks * images, device, stream, "the launch of match's first_kernel", pyramid, task);
    }
  }
  launch(result_kernel<T>, blocks * images, device, stream, "the launch of match's result_kernel", pyramid, task);
}

template void match_cuda(const Pyramid&, const Rule&, const CudaBoxes<float>&, const CudaBoxes<float>&,
                         const Matches<float>&, void*, int, void*);
template void match_cuda(const Pyramid&, const Rule&, const CudaBoxes<double>&, const CudaBoxes<double>&,
                         const Matches<double>&, void*, int, void*);

}  // namespace anchor_ext
