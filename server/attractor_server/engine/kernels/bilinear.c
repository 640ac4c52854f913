/* The reading loop of the bilinear network on one thread of a CPU, as quadratic.c does it.

   E = ½Σqx² + x·qb − vᵀWk − b·v with v = xV and k = tanh(xA + a0). Each page's W is gone through once a step, for what
   it recalls and for how it pushes the keys. Where V is entrywise, v are the leading entries, scaled. */

#define FETCHED 8 /* cache lines of the next pages that are asked for after each product, and each QUAD of values */

#include "common.h"

typedef struct {
    loop loop;
    int64_t keys, values;
    int64_t wide; /* values, filled up to whole panels */
    const float *a, *a_t;       /* panels of A (d, keys) and of its transpose */
    const float *v, *v_t;       /* panels of V (d, wide) and of Vᵀ (wide, d); entrywise the scales (wide), and none */
    const float *a0, *b0, *w0_t; /* b₀ (wide), panels of W₀ᵀ (keys, wide) */
} model;

typedef struct {
    float *k, *p; /* (ROWS, keys) */
    float *v, *r; /* (ROWS, wide) */
} part;

/* What so many values add to r = Wk + b and p = vW of one row; w, v and r begin with theirs. */
INLINE void pulled(int values, int64_t keys, const float *w, const float *v, const float *k, float *r, float *p) {
    vec sums[QUAD] = {0}, factors[QUAD];
    for (int i = 0; i < values; i++) factors[i] = all(v[i]);
    for (int64_t column = 0; column < keys; column += PANEL) {
        vec k0 = load(k + column), k1 = load(k + column + LANES);
        vec p0 = load(p + column), p1 = load(p + column + LANES);
        for (int i = 0; i < values; i++) {
            vec w0 = load(w + i * keys + column), w1 = load(w + i * keys + column + LANES);
            p0 += factors[i] * w0;
            p1 += factors[i] * w1;
            sums[i] += w0 * k0 + w1 * k1;
        }
        save(p + column, p0);
        save(p + column + LANES, p1);
    }
    for (int i = 0; i < values; i++) r[i] += sum(sums[i]);
}

/* r = Wk + b and p = vW of one row, whose W is gone through as it lies in memory. */
static void pull(const model *m, tile *t, const float *w, const float *b, const float *v, const float *k, float *r, float *p) {
    int64_t i = 0;
    memcpy(r, b, m->values * sizeof(float));
    memset(p, 0, m->keys * sizeof(float));
    for (; i + QUAD <= m->values; i += QUAD) {
        pulled(QUAD, m->keys, w + i * m->keys, v + i, k, r + i, p);
        fetch(t);
    }
    for (; i < m->values; i++) pulled(1, m->keys, w + i * m->keys, v + i, k, r + i, p);
}

static void scaled(const model *m, const float *x, float *out) {
    for (int64_t i = 0; i < m->wide; i += LANES) save(out + i, load(m->v + i) * load(x + i));
}

static void look(const model *m, tile *t, const part *o, const float *x, const float *const *w,
                 const float *const *b) {
    through(t, x, m->loop.d, m->a, m->a0, 1, o->k, m->keys);
    if (m->v_t)
        through(t, x, m->loop.d, m->v, 0, 0, o->v, m->wide);
    else
        for (int64_t row = 0; row < t->rows; row++) scaled(m, x + row * m->loop.d, o->v + row * m->wide);
    for (int64_t row = 0; row < t->rows; row++)
        pull(m, t, w[row], b[row], o->v + row * m->wide, o->k + row * m->keys, o->r + row * m->wide,
             o->p + row * m->keys);
}

/* (Wk + b)Vᵀ of so many rows at the PANEL entries from `column` on, where V is entrywise. */
static void back(const model *m, int rows, const float *r, int64_t column, vec out[][2]) {
    for (int row = 0; row < rows; row++)
        for (int half = 0; half < 2; half++) {
            int64_t at = column + half * LANES;
            out[row][half] = column < m->wide ? load(r + row * m->wide + at) * load(m->v + at) : all(0.0f);
        }
}

/* g = qx + qb − (Wk + b)Vᵀ − (vW ⊙ k′)Aᵀ. */
static void slope(const model *m, tile *t, const part *o) {
    vec z[GROUP][2], y[GROUP][2];
    int64_t d = m->loop.d;
    for (int64_t i = 0; i < t->rows * m->keys; i += LANES) {
        vec k = load(o->k + i);
        save(o->p + i, load(o->p + i) * (all(1.0f) - k * k));
    }
    for (int64_t column = 0; column < d; column += PANEL)
        for (int row = 0, rows; row < t->rows; row += rows) {
            rows = grouped(t, row);
            if (m->v_t)
                product(rows, o->r + row * m->wide, m->wide, m->v_t + column * m->wide, PANEL, m->wide, z);
            else
                back(m, rows, o->r + row * m->wide, column, z);
            product(rows, o->p + row * m->keys, m->keys, m->a_t + column * m->keys, PANEL, m->keys, y);
            fetch(t);
            for (int r = 0; r < rows; r++)
                for (int half = 0; half < 2; half++) {
                    int64_t at = column + half * LANES, own = (row + r) * d + at;
                    vec pulled = z[r][half] + y[r][half];
                    save(t->gradient + own,
                         load(m->loop.q + at) * load(t->ahead + own) + load(m->loop.qb + at) - pulled);
                }
        }
}

static float along(const float *v, const float *r, int64_t wide) {
    vec total = {0};
    for (int64_t i = 0; i < wide; i += LANES) total += load(v + i) * load(r + i);
    return sum(total);
}

/* E at x of one row that has been looked at. */
static float depth(const model *m, const tile *t, const part *o, int64_t row) {
    return bowl(&m->loop, t->x + row * m->loop.d) - along(o->v + row * m->wide, o->r + row * m->wide, m->wide);
}

/* Energies of the cues, in their pages and against empty ones; `empty` is room for (ROWS, wide). */
static void begin(const model *m, tile *t, const part *o, float *empty, float *before, float *gap) {
    through(t, o->k, m->keys, m->w0_t, m->b0, 0, empty, m->wide);
    for (int64_t row = 0; row < t->rows; row++) {
        float *none = empty + row * m->wide;
        const float *r = o->r + row * m->wide;
        before[row] = depth(m, t, o, row);
        for (int64_t i = 0; i < m->wide; i++) none[i] -= r[i];
        gap[row] = along(o->v + row * m->wide, none, m->wide);
    }
}

/* What the cues (pages, n, d) lead to, and energies (pages, n). d and keys are multiples of PANEL; `room` holds
   ROWS · (4d + 2·keys + 3·wide) floats. */
void read_bilinear(const model *m, int64_t pages, int64_t n, const int64_t *places, const float *w, const float *b,
                   const float *cue, float *pattern, float *before, float *after, float *gap, float *room) {
    int64_t rows = pages * n;
    tile t = tile_of(&m->loop, n, room);
    bank from = {w, b, m->values * m->keys, m->values, places};
    part o = {.k = room + 4 * ROWS * m->loop.d};
    o.p = o.k + ROWS * m->keys, o.v = o.p + ROWS * m->keys, o.r = o.v + ROWS * m->wide;
    float *empty = o.r + ROWS * m->wide;
    memset(o.r, 0, ROWS * m->wide * sizeof(float)); /* beyond the values it stays so */
    for (int64_t start = 0; start < rows; start += t.rows) {
        const float *own_w[ROWS], *own_b[ROWS];
        enter(&m->loop, &t, start, rows, n, &from, cue, own_w, own_b);
        for (int64_t k = 0; k < m->loop.steps; k++) {
            look(m, &t, &o, t.ahead, own_w, own_b);
            if (k == 0) begin(m, &t, &o, empty, before + start, gap + start);
            slope(m, &t, &o);
            move(&m->loop, &t, k);
        }
        look(m, &t, &o, t.x, own_w, own_b);
        for (int64_t row = 0; row < t.rows; row++) after[start + row] = depth(m, &t, &o, row);
        memcpy(pattern + start * m->loop.d, t.x, t.rows * m->loop.d * sizeof(float));
    }
}
