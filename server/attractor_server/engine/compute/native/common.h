/* What the kernels share: vectors, products with panels, and a step of the reading loop.

   Matrices that pages share come as panels of 16 columns: [column / 16][row][16]. A row's bits depend on nothing but its
   own page and cue. */

#include <string.h>

#include "frames.h"
#include "kernels.h"
#include "vectors.h"

#define PANEL 16
#define GROUP 6    /* rows at most that share what is loaded of a panel: their sums fill the registers */
#define ROWS 24    /* rows of a tile at most */

#ifdef __clang__ /* the lanes of two vectors, numbered on from one to the other */
#define PICK(one, other, ...) __builtin_shufflevector(one, other, __VA_ARGS__)
#else
#define PICK(one, other, ...) __builtin_shuffle(one, other, (ivec){__VA_ARGS__})
#endif

typedef struct {
    const float *w, *b;
    int64_t w_size, b_size;
    const int64_t *places; /* where each page is, or NULL where they lie in their order */
} bank;

typedef struct {
    int full;        /* rows of each tile but the last */
    int rows, group; /* of this tile; and how many of them share what is loaded of a panel */
    float *x, *ahead, *velocity, *gradient; /* (ROWS, d) */
    const float *held; /* what is known of the rows' values, NaN where nothing is, (rows, values); or NULL */
    float *gap;        /* (ROWS, values) */
    const bank *pages;
    int64_t start, n;       /* its first row among all, and how many rows a page has */
    int64_t asked, last;    /* pages up to which W has been asked for, and is to be */
    const char *next, *end; /* what is still to be asked for of the page asked for last */
} tile;

static inline vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

/* tanh z = 1 − 2 / (exp 2z + 1); what is not a number stays so. */
static inline vec squash(vec z) {
    const vec magic = all(12582912.0f);
    vec y = z + z;
    y = choose(y > all(40.0f), all(40.0f), y);
    y = choose(y < all(-40.0f), all(-40.0f), y);
    vec t = y * all(1.44269504f) + magic;
    vec n = t - magic;
    vec r = (y - n * all(0.693359375f)) + n * all(2.12194440e-4f);
    vec s = all(1.9875691500e-4f) * r + all(1.3981999507e-3f);
    s = s * r + all(8.3334519073e-3f);
    s = s * r + all(4.1665795894e-2f);
    s = s * r + all(1.6666665459e-1f);
    s = s * r + all(5.0000001201e-1f);
    vec e = (vec)((ivec)(s * r * r + r + all(1.0f)) + ((ivec)t << 23));
    return all(1.0f) - all(2.0f) / (e + all(1.0f));
}

/* sin z and cos z, of the remainder by quarters of a turn; what is not a number stays so. */
static inline void wave(vec z, vec *sine, vec *cosine) {
    const vec magic = all(12582912.0f);
    vec t = z * all(0.636619772f) + magic;
    vec n = t - magic;
    vec r = ((z - n * all(1.5703125f)) - n * all(4.8375129700e-4f)) - n * all(7.5497899549e-8f);
    vec square = r * r;
    vec s = all(-1.9515295891e-4f) * square + all(8.3321608736e-3f);
    s = s * square + all(-1.6666654611e-1f);
    s = s * square * r + r;
    vec c = all(2.4433157118e-5f) * square + all(-1.3887316255e-3f);
    c = c * square + all(4.1666645683e-2f);
    c = c * square * square - all(0.5f) * square + all(1.0f);
    ivec quarter = (ivec)t, odd = (quarter & 1) != 0;
    *sine = (vec)((ivec)choose(odd, c, s) ^ ((quarter & 2) << 30));
    *cosine = (vec)((ivec)choose(odd, s, c) ^ (((quarter + 1) & 2) << 30));
}

static inline int64_t place(const bank *from, int64_t page) { return from->places ? from->places[page] : page; }

/* Asks for the next cache lines of the pages to come. A function of its own: within the loops of products it costs these
   the registers that hold their sums. */
static __attribute__((noinline)) void fetch(tile *t) {
    for (int i = 0; i < FETCHED; i++, t->next += 64) {
        if (t->next >= t->end) {
            if (t->asked >= t->last) return;
            t->next = (const char *)(t->pages->w + place(t->pages, ++t->asked) * t->pages->w_size);
            t->end = t->next + t->pages->w_size * sizeof(float);
        }
        __builtin_prefetch(t->next, 0, 2);
    }
}

/* So many rows of left (·, k), `width` apart, times PANEL columns of right, whose rows lie `stride` apart. */
INLINE void product_of(int rows, const float *left, int64_t width, const float *right, int64_t stride, int64_t k,
                    vec out[][2]) {
    vec sums[GROUP][2] = {0};
    for (int64_t i = 0; i < k; i++, right += stride) {
        vec one = load(right), other = load(right + LANES);
        for (int r = 0; r < rows; r++) {
            vec factor = all(left[r * width + i]);
            sums[r][0] += factor * one;
            sums[r][1] += factor * other;
        }
    }
    memcpy(out, sums, rows * sizeof *sums);
}

/* The same, by code made for that number of rows. */
static void product(int rows, const float *left, int64_t width, const float *right, int64_t stride, int64_t k,
                    vec out[][2]) {
    switch (rows) {
    case 6: product_of(6, left, width, right, stride, k, out); break;
    case 5: product_of(5, left, width, right, stride, k, out); break;
    case 4: product_of(4, left, width, right, stride, k, out); break;
    case 3: product_of(3, left, width, right, stride, k, out); break;
    case 2: product_of(2, left, width, right, stride, k, out); break;
    default: product_of(1, left, width, right, stride, k, out);
    }
}

/* How many rows the group that begins with this one has. */
static int grouped(const tile *t, int row) { return (int)smaller(t->group, t->rows - row); }

static float bowl(const loop *m, const float *x) {
    vec total = {0};
    for (int64_t i = 0; i < m->d; i += LANES)
        total += load(x + i) * (load(m->q + i) * load(x + i) + load(m->qb + i) + load(m->qb + i));
    return 0.5f * sum(total);
}

/* The tile's cues from row `start` of so many `rows` on, with W and b of each one's page. */
static void enter(const loop *m, tile *t, int64_t start, int64_t rows, int64_t n, const bank *from, const float *cue,
                  const float *held, const float **own_w, const float **own_b) {
    int64_t ours = smaller(start + t->full, rows) - 1, theirs = smaller(start + 2 * t->full, rows) - 1;
    t->rows = (int)(ours - start + 1);
    int groups = (t->rows + GROUP - 1) / GROUP;
    t->group = (t->rows + groups - 1) / groups; /* as even as can be: a small last one would cost as much */
    for (int64_t row = 0; row < t->rows; row++) {
        int64_t at = start + row, page = place(from, at / n);
        own_w[row] = from->w + page * from->w_size, own_b[row] = from->b + page * from->b_size;
        memcpy(t->x + row * m->d, cue + at * m->d, m->d * sizeof(float));
    }
    memcpy(t->ahead, t->x, t->rows * m->d * sizeof(float));
    t->held = held ? held + start * m->values : 0;
    t->start = start, t->n = n;
    t->pages = from, t->asked = ours / n, t->last = theirs / n;
    t->next = t->end = 0;
}

/* The tile's buffers, of which those for x begin `room`; no more pages at once than stay near the core. */
static tile tile_of(const loop *m, int64_t n, float *room, float *gap) {
    int64_t wide = ROWS * m->d;
    tile t = {.x = room, .ahead = room + wide, .velocity = room + 2 * wide, .gradient = room + 3 * wide, .gap = gap};
    t.full = n % QUAD ? (n == 2 ? 2 : 1) * GROUP : ROWS;
    return t;
}

/* What a row is moved by once more, after its step: so many LANES of x, with the velocity and where it leads next. */
static inline void shift(tile *t, int64_t at, vec by, float next) {
    vec x = load(t->x + at) + by, v = load(t->velocity + at) + by;
    save(t->x + at, x);
    save(t->velocity + at, v);
    save(t->ahead + at, x + all(next) * v);
}

static vec missing(const float *held, vec found) { /* what is known less what is found there, 0 where nothing is known */
    vec known = load(held);
    return choose(known == known, known - found, all(0.0f));
}

/* What is known of the rows less what is found there, in the place of that; in users' units where pages have frames. */
static void lack(const loop *m, tile *t) {
    for (int row = 0; row < t->rows; row++) {
        float *gap = t->gap + row * m->values;
        const float *held = t->held + row * m->values;
        int64_t at = place(t->pages, (t->start + row) / t->n);
        for (const frame *f = m->frames; f < m->frames + m->framed; f++)
            reframe(f, 1, at, DECODE, gap + f->first, gap + f->first, 0);
        for (int64_t i = 0; i < m->values; i += LANES) save(gap + i, missing(held + i, load(gap + i)));
        for (const frame *f = m->frames; f < m->frames + m->framed; f++)
            reframe(f, 1, at, PUSH, gap + f->first, gap + f->first, 0);
    }
}

/* Puts what is known back into x. */
static void hold(const loop *m, tile *t, float next) {
    vec z[GROUP][2];
    if (!m->back) { /* x are the values */
        memcpy(t->gap, t->x, t->rows * m->d * sizeof(float));
        lack(m, t);
        for (int64_t at = 0; at < t->rows * m->d; at += LANES) shift(t, at, load(t->gap + at), next);
        return;
    }
    for (int64_t column = 0; column < m->values; column += PANEL)
        for (int row = 0, rows; row < t->rows; row += rows) {
            rows = grouped(t, row);
            product(rows, t->x + row * m->d, m->d, m->back + column * m->d, PANEL, m->d, z);
            for (int r = 0; r < rows; r++)
                for (int half = 0; half < 2; half++) {
                    int64_t at = column + half * LANES;
                    save(t->gap + (row + r) * m->values + at, z[r][half] + load(m->centre + at));
                }
        }
    lack(m, t);
    for (int64_t column = 0; column < m->d; column += PANEL)
        for (int row = 0, rows; row < t->rows; row += rows) {
            rows = grouped(t, row);
            product(rows, t->gap + row * m->values, m->values, m->forth + column * m->values, PANEL, m->values, z);
            for (int r = 0; r < rows; r++)
                for (int half = 0; half < 2; half++) shift(t, (row + r) * m->d + column + half * LANES, z[r][half], next);
        }
}

/* One step of Nesterov's method by the clipped slope, and where the next slope is taken. */
static void move(const loop *m, tile *t, int64_t k) {
    float before = m->momenta[k], next = k + 1 < m->steps ? m->momenta[k + 1] : 0.0f;
    for (int row = 0; row < t->rows; row++) {
        float *x = t->x + row * m->d, *ahead = t->ahead + row * m->d;
        float *velocity = t->velocity + row * m->d, *gradient = t->gradient + row * m->d;
        vec total = {0};
        for (int64_t i = 0; i < m->d; i += LANES) total += load(gradient + i) * load(gradient + i);
        float scale = -m->sizes[k] / __builtin_sqrtf(1.0f + sum(total) / (float)m->d);
        for (int64_t i = 0; i < m->d; i += LANES) {
            vec v = all(scale) * load(gradient + i);
            if (k) v += all(before) * load(velocity + i);
            vec to = load(x + i) + v;
            save(velocity + i, v);
            save(x + i, to);
            save(ahead + i, to + all(next) * v);
        }
    }
    if (t->held) hold(m, t, next);
}

/* out = tanh(left · panels + bias), or without either, of all rows of a tile; left is (rows, k), out (rows, width). */
INLINE void through(tile *t, const float *left, int64_t k, const float *panels, const float *bias, int squashed,
                    float *out, int64_t width) {
    vec z[GROUP][2];
    for (int64_t column = 0; column < width; column += PANEL)
        for (int row = 0, rows; row < t->rows; row += rows) {
            rows = grouped(t, row);
            product(rows, left + row * k, k, panels + column * k, PANEL, k, z);
            fetch(t);
            for (int r = 0; r < rows; r++)
                for (int half = 0; half < 2; half++) {
                    int64_t at = column + half * LANES;
                    vec value = bias ? z[r][half] + load(bias + at) : z[r][half];
                    save(out + (row + r) * width + at, squashed ? squash(value) : value);
                }
        }
}
