// Functions of which the compiler makes one for every kind of vectors, where it can.
#pragma once

// Compiled for these, too, of which the loader takes the newest that the machine has.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(ANCHOR_EXT_NO_CLONES)
#define ANCHOR_EXT_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ANCHOR_EXT_CLONES
#endif
#define ANCHOR_EXT_INLINE inline __attribute__((always_inline))  // templates cannot be cloned, only what calls them
