// What is written by hand for machines with AVX-512 begins with this.
#pragma once

#include "anchors/passes.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(ANCHOR_EXT_NO_AVX512)
#define ANCHOR_EXT_HAS_AVX512
#if !defined(__clang__)  // wherever it inlines them, GCC 12 warns of vectors that its own header leaves undefined
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#define ANCHOR_EXT_AVX512 __attribute__((target("avx512f,avx512bw")))
#define ANCHOR_EXT_AVX512_INLINE inline __attribute__((always_inline, target("avx512f,avx512bw")))

namespace anchor_ext::passes {

// Numbers in a vector.
inline constexpr int kDoubles = 8, kFloats = 16;

}  // namespace anchor_ext::passes

#endif
