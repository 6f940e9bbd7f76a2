#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "anchors/anchors.h"
#include "core/launch.h"

namespace anchor_ext {
namespace {

constexpr std::int64_t kMaxRows = 16;                                     // of a tile: more would save next to nothing
constexpr std::int64_t kTableNumbers = kMaxCellAnchors * kMaxComponents;  // of a tile's rows
constexpr int kSmall = 64 * 4;  // numbers of the pyramids that most are: a launch copies its parameters

__device__ inline std::int64_t thread_index() { return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

// Four components as they lie in memory, stored in one piece: 16 bytes for float32.
template <typename T>
struct alignas(sizeof(T) < 4 ? 8 : 16) Packed {
  std::uint32_t words[sizeof(T)];
};

// An anchor in the output type, as bits.
template <typename T>
struct Numbers {
  alignas(Packed<T>) Bits<T> components[kMaxComponents];
};

template <typename T>
__device__ inline Packed<T> packed(const Numbers<T>& numbers) {
  Packed<T> result;
  std::memcpy(&result, numbers.components, sizeof result);
  return result;
}

template <typename T>
__device__ inline bool is_aligned(const T* out) {  // a view at an odd offset is not
  return reinterpret_cast<std::uintptr_t>(out) % alignof(Packed<T>) == 0;
}

// Stores the components of anchor i one by one.
template <typename T>
__device__ inline void store(Bits<T>* out, std::int64_t i, const Numbers<T>& anchor, int components) {
#pragma unroll
  for (int k = 0; k < kMaxComponents; ++k)
    if (k < components) out[components * i + k] = anchor.components[k];
}

template <typename T>
__device__ inline void store(T* out, std::int64_t i, const Anchor& anchor, int components) {
  Numbers<T> rounded;
#pragma unroll
  for (int k = 0; k < kMaxComponents; ++k) rounded.components[k] = bits_of(round_to<T>(anchor.components[k]));
  if (components == 4 && is_aligned(out))
    reinterpret_cast<Packed<T>*>(out)[i] = packed(rounded);
  else
    store(reinterpret_cast<Bits<T>*>(out), i, rounded, components);
}

// How a launch shares the output among blocks: each writes kThreads neighbouring anchors of up to `rows` rows.
struct Tiles {
  std::int32_t rows;
  struct {
    std::int32_t first_block, across;  // the level's, and how many lie side by side
  } levels[kMaxLevels];
};

// Of an anchor what moves along y, or what does not, and zeros in place of the other: an OR makes it whole.
template <typename T, bool kPlain>
__device__ inline Numbers<T> half(const Grids& pyramid, const double* cell_anchor, bool moves_along_y, double centre) {
  Numbers<T> numbers;
#pragma unroll
  for (int k = 0; k < kMaxComponents; ++k) {
    const bool along_y = kPlain ? k % 2 == 1 : pyramid.layout.along_y >> k & 1;
    numbers.components[k] = 0;
    if (along_y == moves_along_y && k < (kPlain ? 4 : pyramid.layout.components))
      numbers.components[k] = bits_of(round_to<T>(component<kPlain>(pyramid, cell_anchor[k], k, centre, centre)));
  }
  return numbers;
}

// Every anchor. What moves along y is computed once per row of a block and kept in shared memory, what does not once
// per thread.
template <typename T, bool kPlain, typename AnyPyramid>
__global__ void __launch_bounds__(kThreads)
    generate_kernel(const __grid_constant__ AnyPyramid pyramid, const __grid_constant__ Tiles tiles, T* out) {
  alignas(16) __shared__ Bits<T> table[kTableNumbers];  // [rows, cell anchors, components]
  const auto block = static_cast<std::int32_t>(blockIdx.x);
  std::int32_t l = 0;
  while (l + 1 < pyramid.num_levels && block >= tiles.levels[l + 1].first_block) ++l;
  const Level& level = pyramid.levels[l];
  const std::int32_t down = (block - tiles.levels[l].first_block) / tiles.levels[l].across;
  const std::int32_t right = block - tiles.levels[l].first_block - down * tiles.levels[l].across;
  const std::int64_t first_row = std::int64_t{down} * tiles.rows, left = level.y.cells - first_row;
  const auto rows = static_cast<std::int32_t>(left < tiles.rows ? left : tiles.rows);
  const std::int32_t cell_anchors = level.num_cell_anchors, components = kPlain ? 4 : pyramid.layout.components;

  for (std::int32_t i = threadIdx.x; i < rows * cell_anchors; i += kThreads) {
    const auto row = static_cast<std::int32_t>(divide(i, level.by_cell_anchors));
    const double y = centre<kPlain>(pyramid.arithmetic, level.y, first_row + row);
    const double* const cell_anchor = cell_anchor_at(pyramid, level, i - row * cell_anchors);
    store(table, i, half<T, kPlain>(pyramid, cell_anchor, true, y), components);
  }
  __syncthreads();

  const std::int64_t of_row = level.x.cells * cell_anchors;  // anchors
  const std::int64_t across = std::int64_t{right} * kThreads + threadIdx.x;
  if (across >= of_row) return;
  const std::int64_t column = divide(across, level.by_cell_anchors);
  const auto which = static_cast<std::int32_t>(across - column * cell_anchors);
  const double x = centre<kPlain>(pyramid.arithmetic, level.x, column);
  const Numbers<T> own = half<T, kPlain>(pyramid, cell_anchor_at(pyramid, level, which), false, x);
  const Packed<T> own_packed = packed(own);
  const bool whole = components == 4 && is_aligned(out);
  std::int64_t flat = level.begin + first_row * of_row + across;
  const Bits<T>* of_y = table + which * components;
#pragma unroll 2  // more take registers, and with them threads, from the multiprocessors
  for (std::int32_t row = 0; row < rows; ++row, flat += of_row, of_y += cell_anchors * components) {
    if (whole) {
      Packed<T> anchor = *reinterpret_cast<const Packed<T>*>(of_y);
#pragma unroll
      for (std::size_t word = 0; word < sizeof(T); ++word) anchor.words[word] |= own_packed.words[word];
      reinterpret_cast<Packed<T>*>(out)[flat] = anchor;
    } else {
#pragma unroll
      for (int k = 0; k < kMaxComponents; ++k)
        if (k < components) reinterpret_cast<Bits<T>*>(out)[components * flat + k] = own.components[k] | of_y[k];
    }
  }
}

// Thread i writes the anchor at index_at(indices, i).
template <typename T>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const __grid_constant__ Pyramid pyramid, Indices indices, std::int64_t count, T* out) {
  const std::int64_t i = thread_index();
  if (i < count)
    store(out, i, anchor_at<false>(pyramid, wrapped(pyramid, index_at(indices, i))), pyramid.layout.components);
}

// Thread i writes anchor i of all images'.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    many_kernel(const __grid_constant__ Pyramid pyramid, const __grid_constant__ Batch batch, T* out) {
  const std::int64_t i = thread_index();
  if (i < batch.num_anchors) store(out, i, anchor_at<true>(pyramid, locate(pyramid, batch, i)), 4);
}

__global__ void __launch_bounds__(kThreads) flags_kernel(const __grid_constant__ Pyramid pyramid,
                                                         const __grid_constant__ AnchorPredicate predicate, bool* out) {
  const std::int64_t i = thread_index();
  if (i < pyramid.num_anchors) out[i] = flag_at(pyramid, predicate, i);
}

// How many threads a device holds at once; each thread of the host asks once per device.
std::int64_t resident_threads(int device) {
  thread_local std::map<int, std::int64_t> known;
  std::int64_t& threads = known[device];
  if (threads == 0) {
    int multiprocessors = 0, each = 0;
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "asking the device");
    check(cudaDeviceGetAttribute(&each, cudaDevAttrMaxThreadsPerMultiProcessor, device), "asking the device");
    threads = std::int64_t{multiprocessors} * each;
  }
  return threads;
}

// As many rows as leave the device full, and as the table holds.
Tiles tiles_of(const Pyramid& pyramid, int device, std::int64_t& blocks) {
  std::int64_t rows = std::clamp<std::int64_t>(pyramid.num_anchors / resident_threads(device), 1, kMaxRows);
  for (std::int32_t l = 0; l < pyramid.num_levels; ++l)
    rows = std::min(rows, kTableNumbers / (pyramid.levels[l].num_cell_anchors * pyramid.layout.components));
  Tiles tiles{static_cast<std::int32_t>(rows), {}};
  blocks = 0;
  for (std::int32_t l = 0; l < pyramid.num_levels && blocks <= kMaxBlocks; ++l) {
    const Level& level = pyramid.levels[l];
    const std::int64_t across = blocks_of(level.x.cells * level.num_cell_anchors);
    tiles.levels[l] = {static_cast<std::int32_t>(blocks), static_cast<std::int32_t>(across)};
    blocks += (level.y.cells + rows - 1) / rows * across;
  }
  return tiles;
}

// Calls `function` with `out` as a pointer to the type.
template <typename Function>
void with_type(Dtype dtype, void* out, const Function& function) {
  if (dtype == Dtype::float32) return function(static_cast<float*>(out));
  if (dtype == Dtype::float64) return function(static_cast<double*>(out));
  if (dtype == Dtype::float16) return function(static_cast<Float16*>(out));
  function(static_cast<BFloat16*>(out));
}

template <typename T, typename AnyPyramid>
void generate(const AnyPyramid& pyramid, const Tiles& tiles, std::int64_t blocks, T* out, int device, void* stream) {
  launch(pyramid.plain ? generate_kernel<T, true, AnyPyramid> : generate_kernel<T, false, AnyPyramid>, blocks, device,
         stream, "the launch of generate", pyramid, tiles, out);
}

}  // namespace

void generate_cuda(const Pyramid& pyramid, Dtype dtype, void* out, int device, void* stream) {
  if (pyramid.num_anchors == 0) return;
  std::int64_t blocks = 0;
  const Tiles tiles = tiles_of(pyramid, device, blocks);
  const Level& last = pyramid.levels[pyramid.num_levels - 1];
  const int numbers = (last.first_cell_anchor + last.num_cell_anchors) * pyramid.layout.components;
  with_type(dtype, out, [&](auto* typed) {
    if (numbers > kSmall) return generate(pyramid, tiles, blocks, typed, device, stream);
    PyramidOf<kSmall> small{pyramid, {}};
    std::copy_n(pyramid.cell_anchors, numbers, small.cell_anchors);
    generate(small, tiles, blocks, typed, device, stream);
  });
}

void gather_cuda(const Pyramid& pyramid, const Indices& indices, std::int64_t count, Dtype dtype, void* out, int device,
                 void* stream) {
  with_type(dtype, out, [&](auto* typed) {
    launch(gather_kernel<std::remove_pointer_t<decltype(typed)>>, blocks_of(count), device, stream,
           "the launch of gather", pyramid, indices, count, typed);
  });
}

void generate_many_cuda(const Pyramid& pyramid, const Batch& batch, Dtype dtype, void* out, int device, void* stream) {
  with_type(dtype, out, [&](auto* typed) {
    launch(many_kernel<std::remove_pointer_t<decltype(typed)>>, blocks_of(batch.num_anchors), device, stream,
           "the launch of generate_many", pyramid, batch, typed);
  });
}

void flags_cuda(const Pyramid& pyramid, const AnchorPredicate& predicate, bool* out, int device, void* stream) {
  launch(flags_kernel, blocks_of(pyramid.num_anchors), device, stream, "the launch of flags", pyramid, predicate, out);
}

}  // namespace anchor_ext
