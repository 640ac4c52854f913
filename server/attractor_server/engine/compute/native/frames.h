/* The frame of a page: x = s(c + Σ f·(a·c)·a) of c = u − μ over its axes a, and the inverse, with f′ for f. */

#ifndef FRAMES_H
#define FRAMES_H

#include "kernels.h"
#include "vectors.h"

/* Ways through a frame, as kernels.py numbers them: of patterns there, of their differences there, and of both back. */
enum { ENCODE, PUSH, DECODE, PULL_BACK };

/* The products of so many axes, `size` apart, with x. */
INLINE void products_along(int count, const int8_t *axes, const float *x, int64_t size, float *out) {
    vec sums[QUAD] = {0};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        vec value = load(x + i);
        for (int k = 0; k < count; k++) sums[k] += whole(axes + k * size + i) * value;
    }
    for (int k = 0; k < count; k++) {
        out[k] = sum(sums[k]);
        for (int64_t j = i; j < size; j++) out[k] += axes[k * size + j] * x[j];
    }
}

/* x + Σ factor·(a·x)·a over the axes a of a page, in the place of x. */
static __attribute__((noinline)) void stretch(const int8_t *axes, const float *factors, int64_t rank, int64_t size,
                                              float *x) {
    while (rank && factors[rank - 1] == 0.0f) rank--; /* pages with few patterns have few axes */
    float along[rank + 1];
    int64_t k = 0, i = 0;
    for (; k + QUAD <= rank; k += QUAD) products_along(QUAD, axes + k * size, x, size, along + k);
    for (; k < rank; k++) products_along(1, axes + k * size, x, size, along + k);
    for (k = 0; k < rank; k++) along[k] *= factors[k];
    for (; i + QUAD * LANES <= size; i += QUAD * LANES) {
        vec sums[QUAD];
        for (int part = 0; part < QUAD; part++) sums[part] = load(x + i + part * LANES);
        for (k = 0; k < rank; k++)
            for (int part = 0; part < QUAD; part++)
                sums[part] += all(along[k]) * whole(axes + k * size + i + part * LANES);
        for (int part = 0; part < QUAD; part++) save(x + i + part * LANES, sums[part]);
    }
    for (; i < size; i++)
        for (k = 0; k < rank; k++) x[i] += along[k] * axes[k * size + i];
}

/* One field of a pattern through the frame of the page at that place; `in` and `out` may be the same. */
static __attribute__((noinline)) void reframe(const frame *f, int64_t place, int64_t way, const float *in, float *out) {
    int forth = way == ENCODE || way == PUSH;
    const float *mean = f->mean + place * f->size, *factors = (forth ? f->forth : f->back) + place * f->rank;
    float scale = forth ? f->scale[place] : 1.0f / f->scale[place];
    if (way == ENCODE)
        for (int64_t i = 0; i < f->size; i++) out[i] = in[i] == in[i] ? scale * (in[i] - mean[i]) : 0.0f;
    else
        for (int64_t i = 0; i < f->size; i++) out[i] = scale * in[i];
    stretch(f->axes + place * f->rank * f->size, factors, f->rank, f->size, out);
    if (way == DECODE)
        for (int64_t i = 0; i < f->size; i++) out[i] += mean[i];
}

#endif
