// A thread per anchor, which compares it with its image's boxes, a few hundred of them at a time in shared memory.
//
// One launch finds every anchor's best box and, by maxima that know no order, every box's best IoU; one its first anchor,
// where the rule asks for that; and one writes the results. What an anchor's IoUs are is computed anew each time: that
// costs less than to write and to read them.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "match/match.h"

namespace anchor_ext {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMaxBlocks = (std::int64_t{1} << 31) - 1;

// What the kernels share beside the pyramid.
template <typename T>
struct Task {
  Rule rule;
  Counts counts;
  const Box<T>* boxes;
  Matches<T> matches;
  Key<T>* best;                  // a box's best IoU
  unsigned long long int* first;  // and the first anchor that has it
};

template <typename T>
struct Shared {
  Box<T> boxes[kThreads];
  T areas[kThreads];
  Key<T> best[kThreads];
  std::int64_t first[kThreads];
};

__device__ inline void raise(std::uint32_t* to, std::uint32_t key) { atomicMax(to, key); }
__device__ inline void raise(std::uint64_t* to, std::uint64_t key) {
  atomicMax(reinterpret_cast<unsigned long long int*>(to), static_cast<unsigned long long int>(key));
}

// A thread's anchor.
struct Own {
  std::int64_t flat;
  bool exists;
  Box<float> box;
  float area;
};

__device__ inline Own own_anchor(const Pyramid& pyramid) {
  Own own{};
  own.flat = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  own.exists = own.flat < pyramid.num_anchors;
  if (own.exists) {
    own.box = box_at(pyramid, own.flat);
    own.area = area_of(own.box);
  }
  return own;
}

// Calls per_box(index in the image, index in shared memory) for each box of the image, whose tile is in shared memory;
// load(i) and done(i) for each box of a tile, before and after, with the box's place among all.
template <typename T, typename Load, typename PerBox, typename Done>
__device__ inline void for_boxes(const Task<T>& task, Shared<T>& shared, const Load& load, const PerBox& per_box,
                                 const Done& done) {
  const std::int32_t begin = task.counts.begins[blockIdx.y], end = task.counts.begins[blockIdx.y + 1];
  for (std::int32_t tile = begin; tile < end; tile += kThreads) {
    const std::int32_t mine = tile + static_cast<std::int32_t>(threadIdx.x);
    if (mine < end) {
      shared.boxes[threadIdx.x] = task.boxes[mine];
      shared.areas[threadIdx.x] = area_of(task.boxes[mine]);
      load(mine);
    }
    __syncthreads();
    const std::int32_t count = end - tile < kThreads ? end - tile : kThreads;
    for (std::int32_t i = 0; i < count; ++i) per_box(tile - begin + i, i);
    __syncthreads();
    if (mine < end) done(mine);
  }
}

// Every anchor's best box, as an index, or the result where no box takes anchors; every box's best IoU.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    best_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Task<T> task) {
  __shared__ Shared<T> shared;
  const Own own = own_anchor(pyramid);
  const bool takes_any = task.rule.gets != Gets::nothing;
  Key<T> most = 0;
  std::int32_t index = 0;
  for_boxes(
      task, shared, [&](std::int32_t) { shared.best[threadIdx.x] = 0; },
      [&](std::int32_t g, std::int32_t i) {
        if (!own.exists) return;
        const Key<T> key = key_of(iou_of(task.rule, shared.boxes[i], shared.areas[i], own.box, own.area));
        if (key > most) {
          most = key;
          index = g;
        }
        if (takes_any && key > shared.best[i]) raise(&shared.best[i], key);
      },
      [&](std::int32_t g) {
        if (takes_any && shared.best[threadIdx.x] > task.best[g]) raise(&task.best[g], shared.best[threadIdx.x]);
      });
  if (!own.exists) return;
  const std::int64_t at = blockIdx.y * pyramid.num_anchors + own.flat;
  const bool is_empty = task.counts.begins[blockIdx.y] == task.counts.begins[blockIdx.y + 1];
  if (task.matches.iou != nullptr) task.matches.iou[at] = iou_of_key(most);
  if (is_empty)
    task.matches.matched[at] = task.rule.both ? 0 : -1;
  else
    task.matches.matched[at] = takes_any ? index : result_of(task.rule, iou_of_key(most), index);
}

// Every box's first anchor of its best IoU, as the least of them; where that is 0, all are alike, and nothing is written.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    first_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Task<T> task) {
  __shared__ Shared<T> shared;
  const Own own = own_anchor(pyramid);
  const std::int32_t begin = task.counts.begins[blockIdx.y];
  for_boxes(
      task, shared, [&](std::int32_t g) { shared.best[threadIdx.x] = task.best[g]; },
      [&](std::int32_t g, std::int32_t i) {
        if (!own.exists || shared.best[i] == 0) return;
        const Key<T> key = key_of(iou_of(task.rule, shared.boxes[i], shared.areas[i], own.box, own.area));
        if (key == shared.best[i]) atomicMin(&task.first[begin + g], static_cast<unsigned long long int>(own.flat));
      },
      [](std::int32_t) {});
}

// The results, with the anchors that boxes take.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    result_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Task<T> task) {
  __shared__ Shared<T> shared;
  const Own own = own_anchor(pyramid);
  const Rule& rule = task.rule;
  Key<T> most = 0;
  std::int32_t of = -1;
  for_boxes(
      task, shared,
      [&](std::int32_t g) {
        shared.best[threadIdx.x] = task.best[g];
        if (rule.only_first) shared.first[threadIdx.x] = task.best[g] == 0 ? 0 : static_cast<std::int64_t>(task.first[g]);
      },
      [&](std::int32_t g, std::int32_t i) {
        if (!own.exists) return;
        const T iou = iou_of(rule, shared.boxes[i], shared.areas[i], own.box, own.area);
        const Key<T> key = key_of(iou);
        if (key > most) most = key;
        const T best = iou_of_key(shared.best[i]);
        const bool is_taken = takes(rule, best) && (rule.only_first ? shared.first[i] == own.flat : iou == best);
        if (is_taken && (of < 0 || rule.gets != Gets::first)) of = g;
      },
      [](std::int32_t) {});
  if (!own.exists || task.counts.begins[blockIdx.y] == task.counts.begins[blockIdx.y + 1]) return;
  std::int64_t& matched = task.matches.matched[blockIdx.y * pyramid.num_anchors + own.flat];
  const std::int64_t index = matched;
  matched = of < 0 ? result_of(rule, iou_of_key(most), index) : taken(rule, rule.gets == Gets::own ? index : of);
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("anchor_ext: ") + what + " failed: " + cudaGetErrorString(error));
}

}  // namespace

template <typename T>
void match_cuda(const Pyramid& pyramid, const Rule& rule, const Box<T>* boxes, const Counts& counts,
                const Matches<T>& matches, void* best, int device, void* stream) {
  const std::int64_t blocks = (pyramid.num_anchors + kThreads - 1) / kThreads, count = counts.begins[counts.num_images];
  if (blocks > kMaxBlocks) throw std::runtime_error("anchor_ext: more anchors than one launch can index");
  auto* const keys = static_cast<Key<T>*>(best);
  auto* const first = static_cast<unsigned long long int*>(best) + count;
  const Task<T> task{rule, counts, boxes, matches, keys, first};
  check(cudaSetDevice(device), "choosing the device");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(counts.num_images));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  const bool takes_any = rule.gets != Gets::nothing && count > 0;
  if (takes_any) {
    check(cudaMemsetAsync(keys, 0, count * sizeof(Key<T>), config.stream), "clearing memory for match");
    if (rule.only_first)
      check(cudaMemsetAsync(first, 0xff, count * sizeof *first, config.stream), "clearing memory for match");
  }
  check(cudaLaunchKernelEx(&config, best_kernel<T>, pyramid, task), "the launch of match");
  if (!takes_any) return;
  if (rule.only_first) check(cudaLaunchKernelEx(&config, first_kernel<T>, pyramid, task), "the launch of match");
  check(cudaLaunchKernelEx(&config, result_kernel<T>, pyramid, task), "the launch of match");
}

template void match_cuda(const Pyramid&, const Rule&, const Box<float>*, const Counts&, const Matches<float>&, void*,
                         int, void*);
template void match_cuda(const Pyramid&, const Rule&, const Box<double>*, const Counts&, const Matches<double>&, void*,
                         int, void*);

}  // namespace anchor_ext
