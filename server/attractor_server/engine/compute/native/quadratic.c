/* The reading loop of the quadratic network on one thread of a CPU: all steps of a few rows before the next rows.

   E = ½Σqx² + x·qb − fᵀWf − b·f with f = tanh(xA + a0), see programs/quadratic.py. A page's W is fetched from memory
   once, while the rows before are computed, and stays near the core through all steps. */

#define FETCHED 32 /* cache lines of the next pages that are asked for after each product */

#include "common.h"

typedef quadratic_model model;

typedef struct {
    float *f, *u, *p; /* (ROWS, h) */
} part;

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
        product_of(QUAD, f, m->h, w + column, m->h, m->h, z);
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
        for (int row = 0, rows; row < t->rows; row += rows) {
            rows = grouped(t, row);
            product(rows, f + row * m->h, m->h, panels + column * m->h, PANEL, m->h, z);
            for (int r = 0; r < rows; r++)
                for (int half = 0; half < 2; half++) {
                    float *at = out + (row + r) * m->h + column + half * LANES;
                    save(at, load(at) + all(factor) * z[r][half]);
                }
        }
}

/* f and u = f(W + Wᵀ) + b at x, where pages have n rows each. */
static void look(const model *m, tile *t, const part *o, const float *x, const float *const *w, const float *const *b, int n) {
    through(t, x, m->loop.d, m->a, m->a0, 1, o->f, m->h);
    int together = n % QUAD ? 1 : QUAD;
    for (int row = 0; row < t->rows; row += together)
        (together == QUAD ? pull_quad : pull_one)(m, w[row], b[row], o->f + row * m->h, o->u + row * m->h);
    if (m->turn) shared(m, t, o->f, m->turn, -1.0f, o->u);
}

/* ½f·(u + b): how deep the wells are that a row lies in. */
static float wells(const float *f, const float *u, const float *b, int64_t h) {
    vec total = {0};
    for (int64_t i = 0; i < h; i += LANES) total += load(f + i) * (load(u + i) + load(b + i));
    return 0.5f * sum(total);
}

/* g = qx + qb − (u ⊙ f′)Aᵀ. */
static void slope(const model *m, tile *t, const part *o) {
    vec z[GROUP][2];
    for (int64_t i = 0; i < t->rows * m->h; i += LANES) {
        vec f = load(o->f + i);
        save(o->p + i, load(o->u + i) * (all(1.0f) - f * f));
    }
    for (int64_t column = 0; column < m->loop.d; column += PANEL)
        for (int row = 0, rows; row < t->rows; row += rows) {
            rows = grouped(t, row);
            product(rows, o->p + row * m->h, m->h, m->a_t + column * m->h, PANEL, m->h, z);
            fetch(t);
            for (int r = 0; r < rows; r++)
                for (int half = 0; half < 2; half++) {
                    int64_t at = column + half * LANES, own = (row + r) * m->loop.d + at;
                    save(t->gradient + own, load(m->loop.q + at) * load(t->ahead + own) + load(m->loop.qb + at) - z[r][half]);
                }
        }
}

/* E at x of one row, whose f and u are known. */
static float depth(const model *m, const tile *t, const part *o, int64_t row, const float *b) {
    return bowl(&m->loop, t->x + row * m->loop.d) - wells(o->f + row * m->h, o->u + row * m->h, b, m->h);
}

/* Energies of the cues, in their pages and against empty ones. */
static void begin(const model *m, const tile *t, const part *o, const float *const *b, float *before, float *gap) {
    memset(o->p, 0, t->rows * m->h * sizeof(float));
    shared(m, t, o->f, m->empty, 1.0f, o->p);
    for (int64_t row = 0; row < t->rows; row++) {
        const float *f = o->f + row * m->h;
        for (int64_t i = 0; i < m->h; i++) o->p[row * m->h + i] += m->b0[i];
        before[row] = depth(m, t, o, row, b[row]);
        gap[row] = wells(f, o->p + row * m->h, m->b0, m->h) - wells(f, o->u + row * m->h, b[row], m->h);
    }
}

void read_quadratic(const model *m, int64_t pages, int64_t n, const int64_t *places, const float *w, const float *b,
                    const float *cue, const float *held, float *pattern, float *before, float *after, float *gap, float *room) {
    int64_t rows = pages * n, narrow = ROWS * m->h;
    tile t = tile_of(&m->loop, n, room, room + 4 * ROWS * m->loop.d + 3 * narrow);
    bank from = {w, b, m->h * m->h, m->h, places};
    part o = {.f = room + 4 * ROWS * m->loop.d};
    o.u = o.f + narrow, o.p = o.u + narrow;
    for (int64_t start = 0; start < rows; start += t.rows) {
        const float *own_w[ROWS], *own_b[ROWS];
        enter(&m->loop, &t, start, rows, n, &from, cue, held, own_w, own_b);
        for (int64_t k = 0;; k++) {
            look(m, &t, &o, k < m->loop.steps ? t.ahead : t.x, own_w, own_b, (int)n);
            if (k == 0) begin(m, &t, &o, own_b, before + start, gap + start);
            if (k == m->loop.steps) break;
            slope(m, &t, &o);
            move(&m->loop, &t, k);
        }
        for (int64_t row = 0; row < t.rows; row++) after[start + row] = depth(m, &t, &o, row, own_b[row]);
        memcpy(pattern + start * m->loop.d, t.x, t.rows * m->loop.d * sizeof(float));
    }
}
