/* The frame of a page: x = s(c + Σ f·(a·c)·a) of c = u − μ over its axes a, and the inverse, with f′ for f. */

#ifndef FRAMES_H
#define FRAMES_H

#include "kernels.h"
#include "vectors.h"

/* Ways through a frame, as frames.py numbers them: of patterns there, of their differences there, and of both back. */
enum { ENCODE, PUSH, DECODE, PULL_BACK };

#define ABREAST 4 /* patterns of a page that share what is loaded of its axes */

/* The products of so many axes with each of the rows of x, `stride` apart: (rows, rank) from `out` on. */
INLINE void products_along(int count, int rows, const int8_t *axes, const float *x, int64_t stride, int64_t size,
                           int64_t rank, float *out) {
    vec sums[QUAD][ABREAST] = {0};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES)
        for (int k = 0; k < count; k++) {
            vec axis = whole(axes + k * size + i);
            for (int r = 0; r < rows; r++) sums[k][r] += axis * load(x + r * stride + i);
        }
    for (int k = 0; k < count; k++)
        for (int r = 0; r < rows; r++) {
            float *to = out + r * rank + k;
            *to = sum(sums[k][r]);
            for (int64_t j = i; j < size; j++) *to += axes[k * size + j] * x[r * stride + j];
        }
}

/* x + Σ factor·(a·x)·a over the axes a of a page, in the place of each of the rows of x. */
INLINE void stretch_rows(int rows, const int8_t *axes, const float *factors, int64_t rank, int64_t size, float *x,
                         int64_t stride) {
    float along[ABREAST * rank + 1];
    int64_t k = 0, i = 0;
    const int step = rows > 1 ? QUAD / 2 : QUAD; /* so that the sums stay in registers */
    for (; k + step <= rank; k += step) products_along(step, rows, axes + k * size, x, stride, size, rank, along + k);
    for (; k < rank; k++) products_along(1, rows, axes + k * size, x, stride, size, rank, along + k);
    for (int r = 0; r < rows; r++)
        for (k = 0; k < rank; k++) along[r * rank + k] *= factors[k];
    for (; i + step * LANES <= size; i += step * LANES) {
        vec sums[ABREAST][QUAD];
        for (int r = 0; r < rows; r++)
            for (int part = 0; part < step; part++) sums[r][part] = load(x + r * stride + i + part * LANES);
        for (k = 0; k < rank; k++)
            for (int part = 0; part < step; part++) {
                vec axis = whole(axes + k * size + i + part * LANES);
                for (int r = 0; r < rows; r++) sums[r][part] += all(along[r * rank + k]) * axis;
            }
        for (int r = 0; r < rows; r++)
            for (int part = 0; part < step; part++) save(x + r * stride + i + part * LANES, sums[r][part]);
    }
    for (; i < size; i++)
        for (k = 0; k < rank; k++)
            for (int r = 0; r < rows; r++) x[r * stride + i] += along[r * rank + k] * axes[k * size + i];
}

/* The same by code made for that number of rows. */
static __attribute__((noinline)) void stretch(int rows, const int8_t *axes, const float *factors, int64_t rank,
                                              int64_t size, float *x, int64_t stride) {
    while (rank && factors[rank - 1] == 0.0f) rank--; /* pages with few patterns have few axes */
    if (rows == ABREAST)
        stretch_rows(ABREAST, axes, factors, rank, size, x, stride);
    else
        stretch_rows(1, axes, factors, rank, size, x, stride);
}

/* One field of patterns, 1 or ABREAST rows, through the frame of the page at that place; `in` and `out` may be the same. */
static __attribute__((noinline)) void reframe(const frame *f, int rows, int64_t place, int64_t way, const float *in,
                                              float *out, int64_t stride) {
    int forth = way == ENCODE || way == PUSH;
    const float *mean = f->mean + place * f->size, *factors = (forth ? f->forth : f->back) + place * f->rank;
    float scale = forth ? f->scale[place] : 1.0f / f->scale[place];
    for (int r = 0; r < rows; r++) {
        const float *from = in + r * stride;
        float *to = out + r * stride;
        if (way == ENCODE)
            for (int64_t i = 0; i < f->size; i++) to[i] = from[i] == from[i] ? scale * (from[i] - mean[i]) : 0.0f;
        else
            for (int64_t i = 0; i < f->size; i++) to[i] = scale * from[i];
    }
    stretch(rows, f->axes + place * f->rank * f->size, factors, f->rank, f->size, out, stride);
    for (int r = 0; way == DECODE && r < rows; r++)
        for (int64_t i = 0; i < f->size; i++) out[r * stride + i] += mean[i];
}

#endif
