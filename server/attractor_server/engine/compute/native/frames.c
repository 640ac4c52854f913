/* The frames of pages, on one thread of a CPU. */

#include "frames.h"

void frame_patterns(const frame *frames, int64_t count, int64_t pages, int64_t n, const int64_t *places, int64_t width,
                    int64_t way, const float *in, float *out) {
    for (int64_t row = 0; row < pages * n; row++, in += width, out += width)
        for (const frame *f = frames; f < frames + count; f++)
            reframe(f, places ? places[row / n] : row / n, way, in + f->first, out + f->first);
}
