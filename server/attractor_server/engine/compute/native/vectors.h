/* Vectors of a few floats, and what all of the library does with them. */

#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define LANES 8
#define QUAD 4 /* sums that are taken together */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int16_t shorts __attribute__((vector_size(2 * LANES), aligned(1)));
typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1)));

static inline vec load(const float *at) { return *(const vec *)at; }
static inline void save(float *at, vec value) { *(vec *)at = value; }
static inline vec all(float v) { return (vec){v, v, v, v, v, v, v, v}; }
static inline vec whole(const int8_t *at) {
#ifdef __AVX2__ /* two instructions, which GCC 12 does not find by itself */
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at)));
#else
    return __builtin_convertvector(__builtin_convertvector(*(const bytes *)at, ivec), vec);
#endif
}
static inline vec whole16(const int16_t *at) {
#ifdef __AVX2__
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)at)));
#else
    return __builtin_convertvector(__builtin_convertvector(*(const shorts *)at, ivec), vec);
#endif
}
static inline int64_t smaller(int64_t one, int64_t other) { return one < other ? one : other; }

static inline float sum(vec v) { /* in one order, whatever the compiler makes of it */
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

#endif
