/* The product in plain C: the reference of the other kernels. */
#include "product.h"

enum { PART = 64 }; /* weights computed at once; their groups are never cut: groups are 32, 64, 128 or a row */

/* The levels of up to PART codes of an output from input `first` on, without their scale. */
static void levels_of(const Product *product, int64_t output, int64_t first, int count, float *levels) {
    const uint8_t *codes = product->codes + output * row_bytes(product);
    if (product->format == FORMAT_INT8) {
        for (int i = 0; i < count; i++) levels[i] = (int8_t)codes[first + i];
        return;
    }
    float table[16], all[PART];
    memcpy(table, product->levels, sizeof table);
    const int num_bytes = product->format == FORMAT_NF4 ? count / 2 : PART / 2;
    for (int j = 0; j < num_bytes; j++) {
        const uint8_t byte = codes[first / 2 + j];
        if (product->format == FORMAT_NF4) {
            all[2 * j] = table[byte >> 4];
            all[2 * j + 1] = table[byte & 15];
        } else {
            all[j] = table[byte & 15];
            all[j + PART / 2] = table[byte >> 4];
        }
    }
    memcpy(levels, all, count * sizeof *levels);
}

void multiply_plain(const Product *product, const void *inputs, int64_t first_row, int num_rows, int64_t first,
                    int64_t last, float *scales) {
    (void)scales;
    const int64_t num_inputs = product->num_inputs, stride = num_steps(product) * STEP, groups = num_groups(product);
    const int64_t size = product->group_size ? product->group_size : num_inputs;
    const float *rows = (const float *)inputs + first_row * stride;
    for (int64_t output = first; output < last; output++) {
        float sums[MOST_INPUT_ROWS] = {0};
        for (int64_t start = 0; start < num_inputs; start += PART) {
            const int count = num_inputs - start < PART ? (int)(num_inputs - start) : PART;
            float levels[PART];
            levels_of(product, output, start, count, levels);
            for (int half = 0; half < count; half += PART / 2) {
                const float scale = scale_at(product, output * groups + (start + half) / size);
                const int stop = count < half + PART / 2 ? count : half + PART / 2;
                for (int row = 0; row < num_rows; row++) {
                    const float *x = rows + row * stride + start;
                    float sum = 0;
                    for (int i = half; i < stop; i++) sum += x[i] * levels[i];
                    sums[row] += scale * sum;
                }
            }
        }
        for (int row = 0; row < num_rows; row++) store(product, first_row + row, output, sums[row]);
    }
}
