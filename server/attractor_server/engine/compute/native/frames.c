/* The frames of pages, on one thread of a CPU. */

#include "frames.h"

void frame_patterns(const frame *frames, int64_t count, int64_t pages, int64_t n, const int64_t *places, int64_t width,
                    int64_t way, const float *in, float *out) {
    for (int64_t page = 0; page < pages; page++)
        for (int64_t row = 0, rows; row < n; row += rows, in += rows * width, out += rows * width) {
            rows = n - row >= ABREAST ? ABREAST : 1;
            for (const frame *f = frames; f < frames + count; f++)
                reframe(f, (int)rows, places ? places[page] : page, way, in + f->first, out + f->first, width);
        }
}
