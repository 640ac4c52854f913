/* Comparison of cues and readings with kept patterns, and their means, on one thread of a CPU. */

#include "kernels.h"
#include "vectors.h"

/* Whether what is missing counts for nothing is known when this is compiled, as is which side counts. */
INLINE float compare(int cue, int read, int gaps, int64_t size, const int8_t *values, float step, const float *asked,
                     const float *given, const float *found, const float *by) {
    vec unit = all(step), total = all(0), squares = all(by[0]), lengths = all(by[2]), read_squares = all(by[1]), read_lengths = all(by[3]);
    int64_t j = 0;
    for (; j + LANES <= size; j += LANES) {
        vec kept = unit * whole(values + j);
        if (cue) {
            vec gap = load(asked + j) - kept, far = (vec)((ivec)gap & 0x7fffffff);
            vec costs = far * (squares * far + lengths);
            total += gaps ? costs * load(given + j) : costs;
        }
        if (read) {
            vec gap = load(found + j) - kept, far = (vec)((ivec)gap & 0x7fffffff);
            total += far * (read_squares * far + read_lengths);
        }
    }
    float rest = sum(total);
    for (; j < size; j++) {
        float kept = step * values[j], far = __builtin_fabsf(asked[j] - kept), further = __builtin_fabsf(found[j] - kept);
        if (cue)
            rest += far * (by[0] * far + by[2]) * (gaps ? given[j] : 1);
        if (read)
            rest += further * (by[1] * further + by[3]);
    }
    return rest;
}

INLINE void compare_all(int cue, int read, int gaps, const kept_page *page, int64_t size, const float *asked,
                        const float *given, const float *found, const float *by, float *scores) {
    for (int64_t item = 0; item < page->patterns; item++)
        scores[item] = -compare(cue, read, gaps, size, page->values + item * size, page->steps[item], asked, given, found, by);
}

void compare_kept(const kept_page *pages, int64_t pairs, const int64_t *page, const int64_t *row, int64_t size,
                  const float *cues, const float *given, const float *readings, const float *weights, float *scores) {
    int cue = weights[0] != 0 || weights[2] != 0, read = weights[1] != 0 || weights[3] != 0;
    for (int64_t pair = 0; pair < pairs; pair++) {
        const kept_page *at = pages + page[pair];
        const float *asked = cues + row[pair] * size, *mask = given ? given + row[pair] * size : 0, *found = readings + row[pair] * size;
        float count = mask ? 0 : (float)size;
        for (int64_t j = 0; mask && j < size; j++)
            count += mask[j];
        float by[4] = {weights[0] / (count < 1 ? 1 : count), weights[1] / (float)size, weights[2] / (count < 1 ? 1 : count),
                       weights[3] / (float)size};
        int gaps = count < (float)size;
        if (cue && read && gaps)
            compare_all(1, 1, 1, at, size, asked, mask, found, by, scores);
        else if (cue && read)
            compare_all(1, 1, 0, at, size, asked, mask, found, by, scores);
        else if (cue && gaps)
            compare_all(1, 0, 1, at, size, asked, mask, found, by, scores);
        else if (cue)
            compare_all(1, 0, 0, at, size, asked, mask, found, by, scores);
        else if (read)
            compare_all(0, 1, 0, at, size, asked, mask, found, by, scores);
        else
            for (int64_t item = 0; item < at->patterns; item++)
                scores[item] = 0;
        scores += at->patterns;
    }
}

void point_kept(const kept_page *pages, int64_t pairs, const int64_t *page, const int64_t *row, int64_t size,
                const float *ways, float *scores) {
    for (int64_t pair = 0; pair < pairs; pair++) {
        const kept_page *at = pages + page[pair];
        const float *way = ways + row[pair] * size;
        for (int64_t item = 0; item < at->patterns; item++) {
            const int16_t *x = at->x + item * size;
            vec total = all(0), more = all(0);
            int64_t j = 0;
            for (; j + 2 * LANES <= size; j += 2 * LANES) {
                total += whole16(x + j) * load(way + j);
                more += whole16(x + j + LANES) * load(way + j + LANES);
            }
            float rest = sum(total + more);
            for (; j < size; j++)
                rest += x[j] * way[j];
            scores[item] += at->lengths[item] * rest;
        }
        scores += at->patterns;
    }
}

void mix_kept(const kept_page *pages, int64_t pairs, const int64_t *page, const int64_t *row, int64_t size,
              const float *shares, float least, float *means) {
    for (int64_t pair = 0; pair < pairs; pair++) {
        const kept_page *at = pages + page[pair];
        float *mean = means + row[pair] * size;
        for (int64_t item = 0; item < at->patterns; item++)
            if (shares[item] > least)
                for (int64_t j = 0; j < size; j++)
                    mean[j] += shares[item] * at->u[item * size + j];
        shares += at->patterns;
    }
}

void measure_kept(const kept_page *pages, int64_t pairs, const int64_t *page, const int64_t *row, int64_t size,
                  const float *shares, float least, const float *points, const float *units, float *squares) {
    for (int64_t pair = 0; pair < pairs; pair++) {
        const kept_page *at = pages + page[pair];
        const float *point = points + row[pair] * size;
        for (int64_t item = 0; item < at->patterns; item++) {
            vec total = all(0);
            float rest = 0;
            int64_t j = 0;
            if (shares[item] > least) {
                const float *u = at->u + item * size;
                for (; j + LANES <= size; j += LANES) {
                    vec gap = (load(u + j) - load(point + j)) * load(units + j);
                    total += gap * gap;
                }
                for (; j < size; j++) {
                    float gap = (u[j] - point[j]) * units[j];
                    rest += gap * gap;
                }
            }
            squares[item] = sum(total) + rest;
        }
        shares += at->patterns;
        squares += at->patterns;
    }
}

/* The least sum of squares between the middle of a cue and any place of an image, or `limit` where none is below it. */
static float move_image(const area *image, const int8_t *values, float step, const float *cue, const float *given,
                        float limit) {
    int64_t wide = image->width * image->channels, rows = image->height - 2 * image->reach;
    int64_t columns = (image->width - 2 * image->reach) * image->channels;
    const int64_t middle = image->reach * (wide + image->channels);
    vec unit = all(step);
    for (int64_t place = 0; place < (2 * image->reach + 1) * (2 * image->reach + 1); place++) {
        int64_t down = place / (2 * image->reach + 1), right = place % (2 * image->reach + 1);
        float total = 0;
        for (int64_t y = 0; y < rows && total < limit; y++) {
            const float *asked = cue + middle + y * wide, *mask = given ? given + middle + y * wide : 0;
            const int8_t *kept = values + (y + down) * wide + right * image->channels;
            vec squares = all(0);
            int64_t x = 0;
            for (; x + LANES <= columns; x += LANES) {
                vec gap = load(asked + x) - unit * whole(kept + x);
                squares += mask ? gap * gap * load(mask + x) : gap * gap;
            }
            total += sum(squares);
            for (; x < columns; x++) {
                float gap = asked[x] - step * kept[x];
                total += mask ? gap * gap * mask[x] : gap * gap;
            }
        }
        limit = total < limit ? total : limit;
    }
    return limit;
}

void move_kept(const kept_page *pages, int64_t pairs, const int64_t *page, const int64_t *row, int64_t size,
               const area *image, const float *cues, const float *given, const float *limits, float *squares) {
    for (int64_t pair = 0; pair < pairs; pair++) {
        const kept_page *at = pages + page[pair];
        const float *asked = cues + row[pair] * size + image->first;
        const float *mask = given ? given + row[pair] * size + image->first : 0;
        for (int64_t item = 0; item < at->patterns; item++)
            squares[item] = move_image(image, at->values + item * size + image->first, at->steps[item], asked, mask,
                                       limits[row[pair]]);
        squares += at->patterns;
    }
}

/* Squares of the differences, a sum for each pixel, into `gaps`, and of each line into `lines`; their sum. */
static float compare_image(const area *image, const int8_t *values, float step, const float *cue, const float *given,
                           float *gaps, float *lines, float *all_channels) {
    const int64_t channels = image->channels, wide = image->width * channels;
    vec unit = all(step);
    float total = 0;
    for (int64_t y = 0; y < image->height; y++) {
        const float *asked = cue + y * wide, *mask = given ? given + y * wide : 0;
        const int8_t *kept = values + y * wide;
        float *line = gaps + y * image->width, *out = channels == 1 ? line : all_channels;
        int64_t x = 0;
        for (; x + LANES <= wide; x += LANES) {
            vec gap = load(asked + x) - unit * whole(kept + x);
            save(out + x, mask ? gap * gap * load(mask + x) : gap * gap);
        }
        for (; x < wide; x++) {
            float gap = asked[x] - step * kept[x];
            out[x] = mask ? gap * gap * mask[x] : gap * gap;
        }
        lines[y] = 0;
        for (x = 0; x < image->width; x++) {
            if (channels != 1) {
                line[x] = 0;
                for (int64_t channel = 0; channel < channels; channel++)
                    line[x] += out[x * channels + channel];
            }
            lines[y] += line[x];
        }
        total += lines[y];
    }
    return total;
}

/* The least sum of squares wherever the cue was covered, or `limit` where none is below it. */
static float cover_image(const area *image, const float *gaps, const float *lines, float total, const float *variation,
                         float limit, float *columns) {
    const int64_t high = image->height / 2, wide = image->width / 2, across = image->width - wide + 1;
    float band = 0, most = 0;
    for (int64_t y = 0; y < image->height; y++) {
        band += lines[y] - (y < high ? 0 : lines[y - high]);
        most = band > most ? band : most;
    }
    if (total - most >= limit) /* so it is with whatever window */
        return limit;
    for (int64_t x = 0; x < image->width; x++)
        columns[x] = 0;
    for (int64_t y = 0; y < high; y++)
        for (int64_t x = 0; x < image->width; x++)
            columns[x] += gaps[y * image->width + x];
    for (int64_t top = 0; top <= image->height - high; top++) {
        float window = 0;
        for (int64_t x = 0; x < wide; x++)
            window += columns[x];
        for (int64_t left = 0; left < across; left++) {
            float beside = total - window + variation[top * across + left];
            limit = beside < limit ? beside : limit;
            if (left + wide < image->width)
                window += columns[left + wide] - columns[left];
        }
        if (top + high < image->height)
            for (int64_t x = 0; x < image->width; x++)
                columns[x] += gaps[(top + high) * image->width + x] - gaps[top * image->width + x];
    }
    return limit < 0 ? 0 : limit;
}

void cover_kept(const kept_page *pages, int64_t pairs, const int64_t *page, const int64_t *row, int64_t size,
                const area *image, const float *cues, const float *given, const float *variation, const float *limits,
                float *scratch, float *squares) {
    float *gaps = scratch, *columns = gaps + image->height * image->width, *line = columns + image->width,
          *lines = line + image->width * image->channels;
    const int64_t places = (image->height - image->height / 2 + 1) * (image->width - image->width / 2 + 1);
    for (int64_t pair = 0; pair < pairs; pair++) {
        const kept_page *at = pages + page[pair];
        const float *asked = cues + row[pair] * size + image->first;
        const float *mask = given ? given + row[pair] * size + image->first : 0;
        for (int64_t item = 0; item < at->patterns; item++) {
            float total = compare_image(image, at->values + item * size + image->first, at->steps[item], asked, mask,
                                        gaps, lines, line);
            squares[item] = cover_image(image, gaps, lines, total, variation + row[pair] * places, limits[row[pair]], columns);
        }
        squares += at->patterns;
    }
}
