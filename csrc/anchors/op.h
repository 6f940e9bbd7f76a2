// What the anchors' operators do once their arguments are read: the same work on raw memory, for whoever has some.
#pragma once

#include "anchors/anchors.h"
#include "core/spec.h"
#include "torch/interface.h"

namespace anchor_ext {

// Every anchor into `out` [num_anchors, components].
ANCHOR_EXT_API void generate(const Pyramid& pyramid, Dtype dtype, void* out, Place place);

}  // namespace anchor_ext
