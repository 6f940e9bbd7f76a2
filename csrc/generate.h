// Generating anchors: the two launchers. They know a pyramid, a raw pointer and a stream, and nothing of torch.
#pragma once

#include <cstdint>

#include "pyramid.h"

namespace anchor_ext {

enum class Dtype : std::int32_t { float32, float64, float16, bfloat16 };

// Writes anchors begin .. end-1 on the calling thread. `out` [num_anchors, 4] is where anchor 0 lies.
void generate_cpu(const Pyramid& pyramid, Dtype dtype, void* out, std::int64_t begin, std::int64_t end);

// Launches one kernel on `stream` (a cudaStream_t) of `device`, which must be current; it writes all of `out`
// [num_anchors, 4]. Any alignment will do; 16 bytes is the fast one. Throws std::runtime_error if the launch fails.
void generate_cuda(const Pyramid& pyramid, Dtype dtype, void* out, int device, void* stream);

}  // namespace anchor_ext
