/* The interface of the native library. interface.py reads it: fields are int64_t, pointers to numbers, or a structure above;
   functions return void. */

#ifndef KERNELS_H
#define KERNELS_H

#include <stdint.h>

typedef struct {
    int64_t first, size, rank;         /* of its field: the first entry, their number; axes of a page */
    const int8_t *axes;                /* (places, rank, size) */
    const float *mean, *forth, *back;  /* (places, size), twice (places, rank) */
    const float *scale;                /* (places) */
} frame;

typedef struct {
    int64_t d, steps;
    const float *q, *qb;
    const float *sizes, *momenta; /* of each step */
    int64_t values;               /* of a pattern, as users have it, filled up to whole panels; d where x is that */
    const float *back, *centre;   /* panels of the way from x to values (d, values), and what is added; or NULL */
    const float *forth;           /* panels of the way from values to x (values, d) */
    int64_t framed;               /* fields with frames, which lie between values and users */
    const frame *frames;
} loop;

typedef struct {
    loop loop;
    int64_t h;
    const float *a, *a_t; /* panels of A (d, h) and of its transpose */
    const float *a0, *b0;
    const float *turn;  /* panels of W₀ − W₀ᵀ, or NULL where it vanishes */
    const float *empty; /* panels of W₀ + W₀ᵀ */
} quadratic_model;

typedef struct {
    loop loop;
    int64_t keys, values;
    int64_t wide;  /* values, filled up to whole panels */
    int64_t waves; /* of the keys, the last so many are sines; a multiple of PANEL */
    const float *a, *a_t;       /* panels of A (d, keys) and of its transpose */
    const float *v, *v_t;       /* panels of V (d, wide) and of Vᵀ (wide, d); entrywise the scales (wide), and none */
    const float *a0, *b0, *w0_t; /* b₀ (wide), panels of W₀ᵀ (keys, wide) */
    const float *bound;          /* c, or NULL where values are not bounded */
} bilinear_model;

typedef struct {
    int64_t steps, keys, values;
    int64_t wide; /* values, filled up to whole panels, as rows of v are */
    const float *square;            /* entrywise the squares of V (wide), else panels of VᵀV (wide, wide) */
    int64_t entrywise;
    const float *mixed, *mixed_t;   /* panels of VᵀA (wide, keys) and of its transpose */
    const float *gram;              /* panels of AᵀA (keys, keys) */
    const float *w0, *b0;           /* panels of W₀ (values, keys); b₀ (wide) */
    const float *distances, *limit; /* 2β of each step; what clips gradients */
    const float *bound;             /* c, or NULL where values are not bounded */
} bilinear_pen;

typedef struct {
    int64_t patterns;
    const float *u;       /* (patterns, size), value by value */
    const int8_t *values; /* (patterns, size): the same in whole numbers */
    const float *steps;   /* (patterns): what makes these u again */
    const int16_t *x;     /* (patterns, entries): directions, in whole numbers */
    const float *lengths; /* (patterns): what makes those unit vectors */
} kept_page;

typedef struct {
    int64_t first, height, width, channels; /* its first value in a pattern */
    int64_t reach;                          /* pixels by which it may have been moved, each way */
} area;

/* Patterns (pages, n, width) in the frames of their pages, or back, as `way` says (see frames.h). What is missing (NaN)
   counts as the mean; `out` keeps what it has where no field has frames. */
void frame_patterns(const frame *frames, int64_t count, int64_t pages, int64_t n, const int64_t *places, int64_t width,
                    int64_t way, const float *in, float *out);

/* Pairs of a row of cues and readings (rows, size) with a page; `scores` of a pair's patterns follow those of the pair
   before it. Of weights there are those of squares to the cue and to the reading, and of absolute differences to either;
   `given` is 1 where the cue is, and 0 in gaps; NULL where there is none. */
void compare_kept(const kept_page *pages, int64_t pairs, const int64_t *page, const int64_t *row, int64_t size,
                  const float *cues, const float *given, const float *readings, const float *weights, float *scores);

/* Add the products of directions with ways (rows, size) to scores. */
void point_kept(const kept_page *pages, int64_t pairs, const int64_t *page, const int64_t *row, int64_t size,
                const float *ways, float *scores);

/* The least sums of squares (patterns of all pairs) between the middle of an image of the cues and any place of the
   patterns' image, or the row's limit where none is below that. */
void move_kept(const kept_page *pages, int64_t pairs, const int64_t *page, const int64_t *row, int64_t size,
               const area *image, const float *cues, const float *given, const float *limits, float *squares);

/* The least sums of squares between an image of the cues and the patterns', of which a quarter of the cue, anywhere, is
   left out, and how much it varies (rows, places) counts instead; or the row's limit where none is below that. In
   `scratch` there are places for an image, a line of it and one of all its channels, and a column. */
void cover_kept(const kept_page *pages, int64_t pairs, const int64_t *page, const int64_t *row, int64_t size,
                const area *image, const float *cues, const float *given, const float *variation, const float *limits,
                float *scratch, float *squares);

/* Add to means (rows, size) the patterns by their shares, where these are above the least. */
void mix_kept(const kept_page *pages, int64_t pairs, const int64_t *page, const int64_t *row, int64_t size,
              const float *shares, float least, float *means);

/* Squared distances of patterns from points (rows, size), in these units (size); 0 where shares are not above the least. */
void measure_kept(const kept_page *pages, int64_t pairs, const int64_t *page, const int64_t *row, int64_t size,
                  const float *shares, float least, const float *points, const float *units, float *squares);

/* What the cues (pages, n, d) lead to, and energies (pages, n). d and h are multiples of PANEL; `held` is
   what is known of them (pages, n, values), or NULL; `room` holds ROWS · (4d + 3h + values) floats. */
void read_quadratic(const quadratic_model *m, int64_t pages, int64_t n, const int64_t *places, const float *w,
                    const float *b, const float *cue, const float *held, float *pattern, float *before, float *after,
                    float *gap, float *room);

/* What the cues (pages, n, d) lead to, and energies (pages, n). d and keys are multiples of PANEL; `held` is
   what is known of them (pages, n, values of users), or NULL; `room` holds ROWS · (4d + 3·keys + 3·wide + those + 1) floats. */
void read_bilinear(const bilinear_model *m, int64_t pages, int64_t n, const int64_t *places, const float *w,
                   const float *b, const float *cue, const float *held, float *pattern, float *before, float *after,
                   float *gap, float *room);

/* The fast weights after writing n patterns to each page. `steps` holds ε, α and the sizes for W and b, (4, steps,
   pages); v and along_v are (pages, n, wide), k, k′ and along_k (pages, n, keys), weight (pages, n). keys are a multiple
   of PANEL; `room` holds 2·(wide + keys)·n + (2·values + wide)·keys + wide floats. */
void write_bilinear(const bilinear_pen *m, int64_t pages, int64_t n, const float *steps, const float *w, const float *b,
                    const float *v, const float *k, const float *bent, const float *length, const float *along_v,
                    const float *along_k, const float *weight, float *out_w, float *out_b, float *room);

#endif
