/* The reading loop of the quadratic network on one thread of a CPU: all steps of a few rows before the next rows.

   E = ½Σqx² + x·qb − fᵀWf − b·f with f = tanh(xA + a0), see quadratic.py beside this. A page's W is fetched from memory
   once, while the rows before are computed, and stays near the core through all steps. Matrices that pages share come as
   panels of 16 columns: [column / 16][row][16]. A row's bits depend on nothing but its own page and cue. */

#include <stdint.h>
#include <string.h>

#define LANES 8
#define PANEL 16
#define GROUP 6    /* rows that share what is loaded of a panel: their sums fill the registers */
#define QUAD 4     /* rows of one page that share what is loaded of its W */
#define ROWS 24    /* rows of a tile at most */
#define FETCHED 32 /* cache lines of the next pages that are asked for after each product */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4)));

typedef struct {
    int64_t d, h, steps;
    const float *a, *a_t; /* panels of A (d, h) and of its transpose */
    const float *a0, *q, *qb, *b0;
    const float *turn;  /* panels of W₀ − W₀ᵀ, or NULL where it vanishes */
    const float *empty; /* panels of W₀ + W₀ᵀ */
    const float *sizes, *momenta; /* of each step */
} model;

typedef struct {
    int rows; /* a multiple of GROUP */
    float *x, *ahead, *velocity, *gradient; /* (ROWS, d) */
    float *f, *u, *p;                       /* (ROWS, h) */
    const char *next, *end;                 /* what is still to be fetched of the next pages */
} tile;

static inline vec load(const float *at) { return *(const vec *)at; }
static inline void save(float *at, vec value) { *(vec *)at = value; }
static inline vec all(float v) { return (vec){v, v, v, v, v, v, v, v}; }

static inline float sum(vec v) { /* in one order, whatever the compiler makes of it */
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

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

static inline void fetch(tile *t) {
    for (int i = 0; i < FETCHED && t->next < t->end; i++, t->next += 64) __builtin_prefetch(t->next, 0, 2);
}

/* So many rows of left (·, k), `width` apart, times PANEL columns of right, whose rows lie `stride` apart. */
INLINE void product(int rows, const float *left, int64_t width, const float *right, int64_t stride, int64_t k,
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

/* f = tanh(xA + a0) of all rows of a tile. */
static void features(const model *m, tile *t, const float *x) {
    vec z[GROUP][2];
    for (int64_t column = 0; column < m->h; column += PANEL)
        for (int row = 0; row < t->rows; row += GROUP) {
            product(GROUP, x + row * m->d, m->d, m->a + column * m->d, PANEL, m->d, z);
            fetch(t);
            for (int r = 0; r < GROUP; r++)
                for (int half = 0; half < 2; half++) {
                    int64_t at = column + half * LANES;
                    save(t->f + (row + r) * m->h + at, squash(z[r][half] + load(m->a0 + at)));
                }
        }
}

/* u = 2fW + b of one row. */
static void pull_one(const model *m, const float *w, const float *b, const float *f, float *u) {
    for (int64_t column = 0; column < m->h; column += 8 * LANES) {
        int wide = m->h - column < 8 * LANES ? (int)(m->h - column) / LANES : 8;
        vec sums[8] = {0};
        const float *at = w + column;
        if (wide == 8)
            for (int64_t i = 0; i < m->h; i++, at += m->h) {
                vec factor = all(f[i]);
                for (int c = 0; c < 8; c++) sums[c] += factor * load(at + c * LANES);
            }
        else
            for (int64_t i = 0; i < m->h; i++, at += m->h)
                for (int c = 0; c < wide; c++) sums[c] += all(f[i]) * load(at + c * LANES);
        for (int c = 0; c < wide; c++) {
            int64_t to = column + c * LANES;
            save(u + to, sums[c] + sums[c] + load(b + to));
        }
    }
}

/* The same of QUAD rows of one page. */
static void pull_quad(const model *m, const float *w, const float *b, const float *f, float *u) {
    vec z[QUAD][2];
    for (int64_t column = 0; column < m->h; column += PANEL) {
        product(QUAD, f, m->h, w + column, m->h, m->h, z);
        for (int r = 0; r < QUAD; r++)
            for (int half = 0; half < 2; half++) {
                int64_t at = column + half * LANES;
                save(u + r * m->h + at, z[r][half] + z[r][half] + load(b + at));
            }
    }
}

/* out += factor · f · panels, all (rows, h). */
static void shared(const model *m, const tile *t, const float *f, const float *panels, float factor, float *out) {
    vec z[GROUP][2];
    for (int64_t column = 0; column < m->h; column += PANEL)
        for (int row = 0; row < t->rows; row += GROUP) {
            product(GROUP, f + row * m->h, m->h, panels + column * m->h, PANEL, m->h, z);
            for (int r = 0; r < GROUP; r++)
                for (int half = 0; half < 2; half++) {
                    float *at = out + (row + r) * m->h + column + half * LANES;
                    save(at, load(at) + all(factor) * z[r][half]);
                }
        }
}

/* f and u = f(W + Wᵀ) + b at x, where pages have n rows each. */
static void look(const model *m, tile *t, const float *x, const float *const *w, const float *const *b, int n) {
    features(m, t, x);
    int together = n % QUAD ? 1 : QUAD;
    for (int row = 0; row < t->rows; row += together)
        (together == QUAD ? pull_quad : pull_one)(m, w[row], b[row], t->f + row * m->h, t->u + row * m->h);
    if (m->turn) shared(m, t, t->f, m->turn, -1.0f, t->u);
}

/* ½f·(u + b): how deep the wells are that a row lies in. */
static float wells(const float *f, const float *u, const float *b, int64_t h) {
    vec total = {0};
    for (int64_t i = 0; i < h; i += LANES) total += load(f + i) * (load(u + i) + load(b + i));
    return 0.5f * sum(total);
}

static float bowl(const model *m, const float *x) {
    vec total = {0};
    for (int64_t i = 0; i < m->d; i += LANES)
        total += load(x + i) * (load(m->q + i) * load(x + i) + load(m->qb + i) + load(m->qb + i));
    return 0.5f * sum(total);
}

/* g = qx + qb − (u ⊙ f′)Aᵀ. */
static void slope(const model *m, tile *t) {
    vec z[GROUP][2];
    for (int64_t i = 0; i < t->rows * m->h; i += LANES) {
        vec f = load(t->f + i);
        save(t->p + i, load(t->u + i) * (all(1.0f) - f * f));
    }
    for (int64_t column = 0; column < m->d; column += PANEL)
        for (int row = 0; row < t->rows; row += GROUP) {
            product(GROUP, t->p + row * m->h, m->h, m->a_t + column * m->h, PANEL, m->h, z);
            fetch(t);
            for (int r = 0; r < GROUP; r++)
                for (int half = 0; half < 2; half++) {
                    int64_t at = column + half * LANES, own = (row + r) * m->d + at;
                    save(t->gradient + own, load(m->q + at) * load(t->ahead + own) + load(m->qb + at) - z[r][half]);
                }
        }
}

/* One step of Nesterov's method by the clipped slope, and where the next slope is taken. */
static void move(const model *m, tile *t, int64_t k) {
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
}

/* E at x of one row, whose f and u are known. */
static float depth(const model *m, const tile *t, int64_t row, const float *b) {
    return bowl(m, t->x + row * m->d) - wells(t->f + row * m->h, t->u + row * m->h, b, m->h);
}

/* Energies of the cues, in their pages and against empty ones. */
static void begin(const model *m, tile *t, int64_t here, const float *const *b, float *before, float *gap) {
    memset(t->p, 0, t->rows * m->h * sizeof(float));
    shared(m, t, t->f, m->empty, 1.0f, t->p);
    for (int64_t row = 0; row < here; row++) {
        const float *f = t->f + row * m->h;
        for (int64_t i = 0; i < m->h; i++) t->p[row * m->h + i] += m->b0[i];
        before[row] = depth(m, t, row, b[row]);
        gap[row] = wells(f, t->p + row * m->h, m->b0, m->h) - wells(f, t->u + row * m->h, b[row], m->h);
    }
}

static int64_t smaller(int64_t one, int64_t other) { return one < other ? one : other; }

/* The tile's cues, with W and b of each row's page; rows beyond the last are computed, and not kept. */
static void enter(const model *m, tile *t, int64_t start, int64_t rows, int64_t n, const float *w, const float *b,
                  const float *cue, const float **own_w, const float **own_b) {
    int64_t page = m->h * m->h, ours = smaller(start + t->rows, rows) - 1, theirs = smaller(start + 2 * t->rows, rows) - 1;
    for (int64_t row = 0; row < t->rows; row++) {
        int64_t at = smaller(start + row, rows - 1);
        own_w[row] = w + at / n * page, own_b[row] = b + at / n * m->h;
        memcpy(t->x + row * m->d, cue + at * m->d, m->d * sizeof(float));
    }
    memcpy(t->ahead, t->x, t->rows * m->d * sizeof(float));
    t->next = (const char *)(w + (ours / n + 1) * page), t->end = (const char *)(w + (theirs / n + 1) * page);
}

/* What the cues (pages, n, d) lead to, and energies (pages, n). d and h are multiples of PANEL; `room` holds
   ROWS · (4d + 3h) floats. */
void read_quadratic(const model *m, int64_t pages, int64_t n, const float *w, const float *b, const float *cue,
                    float *pattern, float *before, float *after, float *gap, float *room) {
    int64_t wide = ROWS * m->d, narrow = ROWS * m->h, rows = pages * n;
    tile t = {.x = room, .ahead = room + wide, .velocity = room + 2 * wide, .gradient = room + 3 * wide};
    t.f = room + 4 * wide, t.u = t.f + narrow, t.p = t.u + narrow;
    t.rows = n % QUAD ? (n == 2 ? 2 : 1) * GROUP : ROWS; /* no more pages than stay near the core */
    for (int64_t start = 0; start < rows; start += t.rows) {
        const float *own_w[ROWS], *own_b[ROWS];
        int64_t here = smaller(t.rows, rows - start);
        enter(m, &t, start, rows, n, w, b, cue, own_w, own_b);
        for (int64_t k = 0; k < m->steps; k++) {
            look(m, &t, t.ahead, own_w, own_b, (int)n);
            if (k == 0) begin(m, &t, here, own_b, before + start, gap + start);
            slope(m, &t);
            move(m, &t, k);
        }
        look(m, &t, t.x, own_w, own_b, (int)n);
        for (int64_t row = 0; row < here; row++)
            after[start + row] = depth(m, &t, row, own_b[row]);
        memcpy(pattern + start * m->d, t.x, here * m->d * sizeof(float));
    }
}
