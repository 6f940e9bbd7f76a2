// Named ranges for nsys: one per public operation, in the domain "anchor_ext". Nothing where NVTX is absent.
#pragma once

#if __has_include(<nvtx3/nvtx3.hpp>)
#include <nvtx3/nvtx3.hpp>

#define ANCHOR_EXT_NVTX 1

namespace anchor_ext {
struct NvtxDomain {
  static constexpr char const* name{"anchor_ext"};
};
}  // namespace anchor_ext

// A range over the rest of the scope, whose name is registered once.
#define ANCHOR_EXT_RANGE(range_name)                                                                \
  static const ::nvtx3::registered_string_in<::anchor_ext::NvtxDomain> nvtx_range_name{range_name}; \
  const ::nvtx3::scoped_range_in<::anchor_ext::NvtxDomain> nvtx_range { nvtx_range_name }

#else
#define ANCHOR_EXT_NVTX 0
#define ANCHOR_EXT_RANGE(range_name) static_cast<void>(0)
#endif
