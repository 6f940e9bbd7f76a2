// Generating what a pyramid holds: every anchor, the anchors at given flat indices, or a flag per anchor. The launchers
// know a pyramid, raw pointers and a stream, and nothing of torch.
//
// Those for the CPU do items begin .. end-1 on the calling thread; `out` is where item 0 lies. Those for CUDA launch
// one kernel on `stream` (a cudaStream_t) of `device`, which must be current, and throw std::runtime_error if that
// fails. Any alignment of `out` will do; 16 bytes is the fast one.
#pragma once

#include <cstdint>

#include "anchors/batch.h"
#include "anchors/predicate.h"
#include "core/pyramid.h"

namespace anchor_ext {

// Every anchor into `out` [num_anchors, components].
void generate_cpu(const Pyramid& pyramid, Dtype dtype, void* out, std::int64_t begin, std::int64_t end);
void generate_cuda(const Pyramid& pyramid, Dtype dtype, void* out, int device, void* stream);

// Every anchor of every image of a batch, of the plain pyramid whose grids are the images', into `out` [num_anchors,
// 4].
void generate_many_cuda(const Pyramid& pyramid, const Batch& batch, Dtype dtype, void* out, int device, void* stream);

// The anchors at `indices` [count], each modulo num_anchors, into `out` [count, components].
void gather_cpu(const Pyramid& pyramid, const Indices& indices, Dtype dtype, void* out, std::int64_t begin,
                std::int64_t end);
void gather_cuda(const Pyramid& pyramid, const Indices& indices, std::int64_t count, Dtype dtype, void* out, int device,
                 void* stream);

// Every anchor's answer into `out` [num_anchors].
void flags_cpu(const Pyramid& pyramid, const AnchorPredicate& predicate, bool* out, std::int64_t begin,
               std::int64_t end);
void flags_cuda(const Pyramid& pyramid, const AnchorPredicate& predicate, bool* out, int device, void* stream);

}  // namespace anchor_ext
