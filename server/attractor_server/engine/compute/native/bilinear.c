/* The reading loop of the bilinear network on one thread of a CPU, as quadratic.c does it.

   E = ½Σqx² + x·qb − vᵀWk − b·v with v = xV, or bounded, and k = tanh(xA + a0), of some sin. Each page's W is gone
   through once a step, for what it recalls and for how it pushes the keys. Where V is entrywise, v are the leading entries,
   scaled. */

#define FETCHED 8 /* cache lines of the next pages that are asked for after each product, and each QUAD of values */

#include "common.h"

typedef bilinear_model model;

typedef struct {
    float *k, *p; /* (ROWS, keys) */
    float *bent;  /* k′ (ROWS, keys), where it does not follow from k */
    float *v, *r; /* (ROWS, wide) */
    float *length; /* √(1 + c·mean u²) (ROWS), where values are bounded */
} part;

static float along(const float *v, const float *r, int64_t wide) {
    vec total = {0};
    for (int64_t i = 0; i < wide; i += LANES) total += load(v + i) * load(r + i);
    return sum(total);
}

/* v = u / length of rows (rows, wide), in the place of u. */
static __attribute__((noinline)) void shorten(float c, int64_t values, int64_t wide, int64_t rows, float *v, float *length) {
    for (int64_t row = 0; row < rows; row++, v += wide) {
        length[row] = __builtin_sqrtf(1.0f + c * along(v, v, wide) / values);
        for (int64_t i = 0; i < wide; i += LANES) save(v + i, load(v + i) / all(length[row]));
    }
}

/* Pulls along v as those along u, in their place: p(1 − c/values·vᵀv) / length. */
static __attribute__((noinline)) void lead(float c, int64_t values, int64_t wide, int64_t rows, const float *v,
                                           const float *length, float *p) {
    for (int64_t row = 0; row < rows; row++, v += wide, p += wide) {
        vec much = all(c * along(v, p, wide) / values), divisor = all(length[row]);
        for (int64_t i = 0; i < wide; i += LANES) save(p + i, (load(p + i) - load(v + i) * much) / divisor);
        memset(p + values, 0, (wide - values) * sizeof(float)); /* where it has to stay so */
    }
}

/* Adds the sum of each of four to r, in the order of `sum`. */
INLINE void add_sums(vec a, vec b, vec c, vec d, float *r) {
    vec ab = PICK(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + PICK(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    vec cd = PICK(c, d, 0, 1, 2, 3, 8, 9, 10, 11) + PICK(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
    vec acbd = PICK(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) + PICK(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
    vec all_four = acbd + PICK(acbd, acbd, 1, 0, 3, 2, 5, 4, 7, 6);
    r[0] += all_four[0], r[1] += all_four[4], r[2] += all_four[2], r[3] += all_four[6];
}

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
            sums[i] += w0 * k0;
            sums[i] += w1 * k1; /* of its own: the two together would be three operations */
        }
        save(p + column, p0);
        save(p + column + LANES, p1);
    }
    if (values == QUAD)
        add_sums(sums[0], sums[1], sums[2], sums[3], r);
    else
        for (int i = 0; i < values; i++) r[i] += sum(sums[i]);
}

/* r = Wk + b and p = vW of one row, whose W is gone through as it lies in memory. */
INLINE void pull(const model *m, tile *t, const float *w, const float *b, const float *v, const float *k, float *r, float *p) {
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

/* k and k′ where some of k are sines. A function of its own: inlined, it costs eight patterns of a page a tenth of the time,
   even where it is not called. */
static __attribute__((noinline)) void waved(const model *m, tile *t, const float *x, float *k, float *bent) {
    through(t, x, m->loop.d, m->a, m->a0, 0, k, m->keys);
    for (int64_t row = 0; row < t->rows; row++, k += m->keys, bent += m->keys)
        for (int64_t i = 0; i < m->keys; i += LANES) {
            vec value = squash(load(k + i)), slope = all(1.0f) - value * value;
            if (i >= m->keys - m->waves) wave(load(k + i), &value, &slope);
            save(k + i, value);
            save(bent + i, slope);
        }
}

INLINE void look(const model *m, int plain, tile *t, const part *o, const float *x, const float *const *w,
                 const float *const *b) {
    if (!plain && m->waves)
        waved(m, t, x, o->k, o->bent);
    else
        through(t, x, m->loop.d, m->a, m->a0, 1, o->k, m->keys);
    if (m->v_t)
        through(t, x, m->loop.d, m->v, 0, 0, o->v, m->wide);
    else
        for (int64_t row = 0; row < t->rows; row++) scaled(m, x + row * m->loop.d, o->v + row * m->wide);
    if (!plain && m->bound) shorten(*m->bound, m->values, m->wide, t->rows, o->v, o->length);
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

/* g = qx + qb − (Wk + b)JVᵀ − (vW ⊙ k′)Aᵀ. */
INLINE void slope(const model *m, int plain, tile *t, const part *o) {
    vec z[GROUP][2], y[GROUP][2];
    int64_t d = m->loop.d;
    if (!plain && m->bound) lead(*m->bound, m->values, m->wide, t->rows, o->v, o->length, o->r);
    if (!plain && m->waves)
        for (int64_t i = 0; i < t->rows * m->keys; i += LANES) save(o->p + i, load(o->p + i) * load(o->bent + i));
    else
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

/* See `read_bilinear`; plain where no key is a sine and values are not bounded, which is then code of its own: what is left
   out costs the rest no register. */
INLINE void read_rows(const model *m, int plain, int64_t pages, int64_t n, const int64_t *places, const float *w, const float *b,
                   const float *cue, const float *held, float *pattern, float *before, float *after, float *gap, float *room) {
    int64_t rows = pages * n;
    tile t = tile_of(&m->loop, n, room, room + ROWS * (4 * m->loop.d + 2 * m->keys + 3 * m->wide));
    bank from = {w, b, m->values * m->keys, m->values, places};
    part o = {.k = room + 4 * ROWS * m->loop.d};
    o.p = o.k + ROWS * m->keys, o.v = o.p + ROWS * m->keys, o.r = o.v + ROWS * m->wide;
    float *empty = o.r + ROWS * m->wide;
    o.bent = empty + ROWS * (m->wide + m->loop.values), o.length = o.bent + ROWS * m->keys;
    memset(o.r, 0, ROWS * m->wide * sizeof(float)); /* beyond the values it stays so */
    for (int64_t start = 0; start < rows; start += t.rows) {
        const float *own_w[ROWS], *own_b[ROWS];
        enter(&m->loop, &t, start, rows, n, &from, cue, held, own_w, own_b);
        for (int64_t k = 0;; k++) {
            look(m, plain, &t, &o, k < m->loop.steps ? t.ahead : t.x, own_w, own_b);
            if (k == 0) begin(m, &t, &o, empty, before + start, gap + start);
            if (k == m->loop.steps) break;
            slope(m, plain, &t, &o);
            move(&m->loop, &t, k);
        }
        for (int64_t row = 0; row < t.rows; row++) after[start + row] = depth(m, &t, &o, row);
        memcpy(pattern + start * m->loop.d, t.x, t.rows * m->loop.d * sizeof(float));
    }
}

void read_bilinear(const model *m, int64_t pages, int64_t n, const int64_t *places, const float *w, const float *b,
                   const float *cue, const float *held, float *pattern, float *before, float *after, float *gap, float *room) {
    if (m->waves || m->bound)
        read_rows(m, 0, pages, n, places, w, b, cue, held, pattern, before, after, gap, room);
    else
        read_rows(m, 1, pages, n, places, w, b, cue, held, pattern, before, after, gap, room);
}

/* The writing loop, all steps of a page before the next page. While it lasts, W lies in panels of 16 keys and in panels
   of 16 values. */

typedef bilinear_pen pen;

typedef struct {
    const float *v, *k, *along_v, *along_k; /* of a page's patterns (n, wide) and (n, keys); ∇ₓ of the bowl along V and A */
    const float *bent, *length;             /* k′ (n, keys); see `part` (n) */
    const float *weight;                    /* (n) */
    float energy, slope, rate_w, rate_b;    /* of the step: ε, α and the sizes */
} ink;

typedef struct {
    tile t;              /* its rows are the patterns; of its buffers none is used */
    float *r, *pulled;   /* (n, wide) */
    float *p, *pushed;   /* (n, keys) */
    float *w, *w_t, *g;  /* (keys / 16, values, 16), (wide / 16, keys, 16), as w */
    float *b;            /* (wide) */
} sheet;

/* W in panels of values, from that in panels of keys. */
static void turn(const pen *m, const sheet *s) {
    for (int64_t column = 0; column < m->keys; column += PANEL)
        for (int64_t value = 0; value < m->values; value += PANEL) {
            const float *from = s->w + column * m->values + value * PANEL;
            float *to = s->w_t + value * m->keys + column * PANEL;
            int values = (int)smaller(PANEL, m->values - value);
            for (int j = 0; j < PANEL; j++)
                for (int i = 0; i < values; i++) to[j * PANEL + i] = from[i * PANEL + j];
        }
}

/* r = (Wk + b)J and p = vW ⊙ k′. */
static void recall(const pen *m, const sheet *s, const ink *o) {
    vec z[GROUP][2];
    for (int64_t column = 0; column < m->wide; column += PANEL)
        for (int row = 0, rows; row < s->t.rows; row += rows) {
            rows = grouped(&s->t, row);
            product(rows, o->k + row * m->keys, m->keys, s->w_t + column * m->keys, PANEL, m->keys, z);
            for (int r = 0; r < rows; r++)
                for (int half = 0; half < 2; half++) {
                    int64_t at = column + half * LANES;
                    save(s->r + (row + r) * m->wide + at, z[r][half] + load(s->b + at));
                }
        }
    if (m->bound) lead(*m->bound, m->values, m->wide, s->t.rows, o->v, o->length, s->r);
    for (int64_t column = 0; column < m->keys; column += PANEL)
        for (int row = 0, rows; row < s->t.rows; row += rows) {
            rows = grouped(&s->t, row);
            product(rows, o->v + row * m->wide, m->wide, s->w + column * m->values, PANEL, m->values, z);
            for (int r = 0; r < rows; r++)
                for (int half = 0; half < 2; half++) {
                    int64_t at = (row + r) * m->keys + column + half * LANES;
                    save(s->p + at, z[r][half] * load(o->bent + at));
                }
        }
}

/* What the patterns do to W: pulled = w(εv + 2α·gVJ) and pushed = 2αw·gA ⊙ k′, where g = ∇ₓE. */
static void feel(const pen *m, const sheet *s, const ink *o) {
    vec y[GROUP][2], z[GROUP][2];
    for (int64_t column = 0; column < m->wide; column += PANEL)
        for (int row = 0, rows; row < s->t.rows; row += rows) {
            rows = grouped(&s->t, row);
            product(rows, s->p + row * m->keys, m->keys, m->mixed_t + column * m->keys, PANEL, m->keys, z);
            if (!m->entrywise)
                product(rows, s->r + row * m->wide, m->wide, m->square + column * m->wide, PANEL, m->wide, y);
            for (int r = 0; r < rows; r++)
                for (int half = 0; half < 2; half++) {
                    int64_t own = (row + r) * m->wide + column + half * LANES;
                    vec back = m->entrywise ? load(s->r + own) * load(m->square + column + half * LANES) : y[r][half];
                    vec slope = load(o->along_v + own) - back - z[r][half];
                    float weight = o->weight[row + r];
                    if (m->bound) /* which needs the whole row first */
                        save(s->pulled + own, slope);
                    else
                        save(s->pulled + own,
                             all(o->energy * weight) * load(o->v + own) + all(2.0f * o->slope * weight) * slope);
                }
        }
    if (m->bound) {
        lead(*m->bound, m->values, m->wide, s->t.rows, o->v, o->length, s->pulled);
        for (int64_t row = 0; row < s->t.rows; row++) {
            vec own = all(o->energy * o->weight[row]), back = all(2.0f * o->slope * o->weight[row]);
            for (int64_t at = row * m->wide; at < (row + 1) * m->wide; at += LANES)
                save(s->pulled + at, own * load(o->v + at) + back * load(s->pulled + at));
        }
    }
    for (int64_t column = 0; column < m->keys; column += PANEL)
        for (int row = 0, rows; row < s->t.rows; row += rows) {
            rows = grouped(&s->t, row);
            product(rows, s->r + row * m->wide, m->wide, m->mixed + column * m->wide, PANEL, m->wide, y);
            product(rows, s->p + row * m->keys, m->keys, m->gram + column * m->keys, PANEL, m->keys, z);
            for (int r = 0; r < rows; r++)
                for (int half = 0; half < 2; half++) {
                    int64_t own = (row + r) * m->keys + column + half * LANES;
                    vec bent = load(o->bent + own), slope = load(o->along_k + own) - y[r][half] - z[r][half];
                    save(s->pushed + own, all(2.0f * o->slope * o->weight[row + r]) * slope * bent);
                }
        }
}

/* pulledᵀk + vᵀpushed of so many values and PANEL keys. */
INLINE void outer_of(int values, const pen *m, const sheet *s, const ink *o, int64_t value, int64_t column, vec out[][2]) {
    vec sums[GROUP][2] = {0};
    for (int row = 0; row < s->t.rows; row++) {
        const float *pulled = s->pulled + row * m->wide + value, *v = o->v + row * m->wide + value;
        const float *k = o->k + row * m->keys + column, *pushed = s->pushed + row * m->keys + column;
        vec k0 = load(k), k1 = load(k + LANES), p0 = load(pushed), p1 = load(pushed + LANES);
        for (int i = 0; i < values; i++) {
            sums[i][0] += all(pulled[i]) * k0 + all(v[i]) * p0;
            sums[i][1] += all(pulled[i]) * k1 + all(v[i]) * p1;
        }
    }
    memcpy(out, sums, values * sizeof *sums);
}

/* So much of the gradient is taken: rate / √(1 + ‖g‖²/c²). */
static float clipped(float rate, float square, float limit) {
    return rate / __builtin_sqrtf(1.0f + square / (limit * limit));
}

/* Moves W and b against the gradient −(pulledᵀk + vᵀpushed) + 2β(W − W₀), clipped as a whole. */
static void step(const pen *m, const sheet *s, const ink *o, float distance) {
    vec z[GROUP][2], square = {0};
    for (int64_t column = 0; column < m->keys; column += PANEL)
        for (int64_t value = 0, values; value < m->values; value += values) {
            values = smaller(GROUP, m->values - value);
            if (values == GROUP)
                outer_of(GROUP, m, s, o, value, column, z);
            else
                for (int i = 0; i < values; i++) outer_of(1, m, s, o, value + i, column, z + i);
            for (int i = 0; i < values; i++)
                for (int half = 0; half < 2; half++) {
                    int64_t at = column * m->values + (value + i) * PANEL + half * LANES;
                    vec g = all(distance) * (load(s->w + at) - load(m->w0 + at)) - z[i][half];
                    square += g * g;
                    save(s->g + at, g);
                }
        }
    vec scale = all(clipped(o->rate_w, sum(square), *m->limit));
    for (int64_t at = 0; at < m->keys * m->values; at += LANES) save(s->w + at, load(s->w + at) - scale * load(s->g + at));

    square = all(0.0f);
    for (int64_t at = 0; at < m->wide; at += LANES) {
        vec g = all(distance) * (load(s->b + at) - load(m->b0 + at));
        for (int row = 0; row < s->t.rows; row++) g -= load(s->pulled + row * m->wide + at);
        square += g * g;
        save(s->g + at, g);
    }
    scale = all(clipped(o->rate_b, sum(square), *m->limit));
    for (int64_t at = 0; at < m->wide; at += LANES) save(s->b + at, load(s->b + at) - scale * load(s->g + at));
}

void write_bilinear(const pen *m, int64_t pages, int64_t n, const float *steps, const float *w, const float *b,
                    const float *v, const float *k, const float *bent, const float *length, const float *along_v,
                    const float *along_k, const float *weight, float *out_w, float *out_b, float *room) {
    int64_t size = m->values * m->keys, groups = (n + GROUP - 1) / GROUP;
    sheet s = {.t = {.rows = (int)n, .group = groups ? (int)((n + groups - 1) / groups) : 1}, .r = room};
    s.pulled = s.r + n * m->wide, s.p = s.pulled + n * m->wide, s.pushed = s.p + n * m->keys;
    s.w = s.pushed + n * m->keys, s.w_t = s.w + size, s.b = s.w_t + m->wide * m->keys, s.g = s.b + m->wide;
    memset(s.w_t, 0, m->wide * m->keys * sizeof(float)); /* beyond the values it stays so */
    for (int64_t page = 0; page < pages; page++) {
        const float *own = steps + page;
        ink o = {v + page * n * m->wide, k + page * n * m->keys, along_v + page * n * m->wide, along_k + page * n * m->keys,
                 bent + page * n * m->keys, length + page * n, weight + page * n};
        for (int64_t i = 0; i < m->values; i++)
            for (int64_t j = 0; j < m->keys; j += PANEL)
                memcpy(s.w + j * m->values + i * PANEL, w + page * size + i * m->keys + j, PANEL * sizeof(float));
        memset(s.b, 0, m->wide * sizeof(float));
        memcpy(s.b, b + page * m->values, m->values * sizeof(float));
        for (int64_t t = 0; t < m->steps; t++, own += pages) {
            o.energy = own[0], o.slope = own[m->steps * pages];
            o.rate_w = own[2 * m->steps * pages], o.rate_b = own[3 * m->steps * pages];
            turn(m, &s);
            recall(m, &s, &o);
            feel(m, &s, &o);
            step(m, &s, &o, m->distances[t]);
        }
        for (int64_t i = 0; i < m->values; i++)
            for (int64_t j = 0; j < m->keys; j += PANEL)
                memcpy(out_w + page * size + i * m->keys + j, s.w + j * m->values + i * PANEL, PANEL * sizeof(float));
        memcpy(out_b + page * m->values, s.b, m->values * sizeof(float));
    }
}
