/* The rows interface on the kernels with inputs in float32: plain C, AVX-512 without further extensions, and on AVX2 a
 * single row that integers cannot hold.
 *
 * Weights in 16 bits are multiplied here in plain C, eight sums side by side, which compilers turn into vectors.
 */
#include "rows_kernels.h"

#include <stddef.h>

enum { SIDE_BY_SIDE = 8 };

/* The weight as the kernels of products want it; `out` gets output n of row m at m * stride + n - first. */
static Product product_of(const Weight *weight, int64_t num_rows, float *out, int64_t first, int64_t stride) {
    return (Product){
        .codes = weight->codes,
        .scales = weight->scales,
        .levels = weight->levels,
        .nested_levels = weight->nested_levels,
        .nested_scales = weight->nested_scales,
        .outputs = (void *)((uintptr_t)out - (uintptr_t)first * sizeof *out), /* never dereferenced before `first` */
        .num_outputs = stride,
        .num_inputs = weight->num_inputs,
        .num_rows = num_rows,
        .group_size = weight->group_size,
        .offset = weight->offset,
        .format = weight->format,
        .scale_kind = weight->scale_kind,
        .number = NUMBER_FLOAT32,
    };
}

static int64_t padded_inputs(const Weight *weight) { return (weight->num_inputs + STEP - 1) / STEP * STEP; }

static int64_t room(const Weight *weight, int64_t num_rows) { return num_rows * padded_inputs(weight) * sizeof(float); }

static int64_t scratch_room(const Weight *weight) {
    const Product product = product_of(weight, 1, NULL, 0, 0);
    return SHARE_OF_OUTPUTS * scale_room(&product) * (int64_t)sizeof(float);
}

static int place_as_is(int format, int position) {
    (void)format;
    return position;
}

/* Steps of all rows are shared among the parts. */
static void prepare_by(int (*place)(int, int), const Weight *weight, const float *inputs, int64_t num_rows,
                       void *prepared, int part, int parts) {
    const int64_t steps = padded_inputs(weight) / STEP, num_inputs = weight->num_inputs;
    int places[STEP];
    for (int i = 0; i < STEP; i++) places[i] = is_16_bits(weight) ? i : place(weight->format, i);
    for (int64_t at = share(num_rows * steps, part, parts); at < share(num_rows * steps, part + 1, parts); at++) {
        const int64_t row = at / steps, step = at % steps, rest = num_inputs - step * STEP;
        const float *from = inputs + row * num_inputs + step * STEP;
        float *target = (float *)prepared + at * STEP;
        for (int i = 0; i < STEP; i++) target[i] = places[i] < rest ? from[places[i]] : 0.0f;
    }
}

static float number_at(const Weight *weight, int64_t index) {
    uint16_t bits;
    memcpy(&bits, (const char *)weight->codes + 2 * index, sizeof bits);
    return weight->format == FORMAT_BFLOAT16 ? float_of_bfloat16(bits) : float_of_float16(bits);
}

static float dot(const float *weights, const float *inputs, int64_t count) {
    float sums[SIDE_BY_SIDE] = {0}, total = 0;
    for (int64_t i = 0; i < count; i += SIDE_BY_SIDE)
        for (int j = 0; j < SIDE_BY_SIDE; j++) sums[j] += weights[i + j] * inputs[i + j];
    for (int j = 0; j < SIDE_BY_SIDE; j++) total += sums[j];
    return total;
}

/* A row of weights in float32 is made a step at a time and meets all rows of inputs. */
static void multiply_16_bits(const Weight *weight, const float *inputs, int64_t num_rows, int64_t first, int64_t last,
                             float *out, int64_t stride) {
    const int64_t padded = padded_inputs(weight), num_inputs = weight->num_inputs;
    for (int64_t output = first; output < last; output++) {
        for (int64_t row = 0; row < num_rows; row++) out[row * stride + output - first] = 0;
        for (int64_t start = 0; start < padded; start += STEP) {
            float weights[STEP];
            for (int i = 0; i < STEP; i++)
                weights[i] = start + i < num_inputs ? number_at(weight, output * num_inputs + start + i) : 0.0f;
            for (int64_t row = 0; row < num_rows; row++)
                out[row * stride + output - first] += dot(weights, inputs + row * padded + start, STEP);
        }
    }
}

static void multiply_by(Kernel kernel, const Weight *weight, const void *prepared, int64_t num_rows, int64_t first,
                        int64_t last, float *out, int64_t stride, void *scratch) {
    if (is_16_bits(weight)) {
        multiply_16_bits(weight, prepared, num_rows, first, last, out, stride);
        return;
    }
    const Product product = product_of(weight, num_rows, out, first, stride);
    for (int64_t row = 0; row < num_rows; row += MOST_INPUT_ROWS) {
        const int count = num_rows - row < MOST_INPUT_ROWS ? (int)(num_rows - row) : MOST_INPUT_ROWS;
        kernel(&product, prepared, row, count, first, last, scratch);
    }
}

#define ROWS_KERNEL(name, place, kernel)                                                                             \
    static void prepare_##name(const Weight *weight, const float *inputs, int64_t num_rows, void *prepared, int part, \
                               int parts) {                                                                          \
        prepare_by(place, weight, inputs, num_rows, prepared, part, parts);                                          \
    }                                                                                                                \
    static void multiply_##name##_rows(const Weight *weight, const void *prepared, int64_t num_rows, int64_t first,   \
                                       int64_t last, float *out, int64_t stride, void *scratch) {                    \
        multiply_by(kernel, weight, prepared, num_rows, first, last, out, stride, scratch);                          \
    }                                                                                                                \
    const RowsKernel rows_kernel_##name = {room, scratch_room, prepare_##name, multiply_##name##_rows};
ROWS_KERNEL(plain, place_as_is, multiply_plain)
#ifdef __x86_64__
ROWS_KERNEL(avx512, place_avx512, multiply_avx512)

int64_t row_avx2_room(const Weight *weight) { return room(weight, 1) + scratch_room(weight); }

void multiply_row_avx2(const Weight *weight, const float *inputs, int64_t first, int64_t last, float *out, void *scratch) {
    prepare_by(place_avx2, weight, inputs, 1, scratch, 0, 1);
    multiply_by(multiply_avx2, weight, scratch, 1, first, last, out, last - first, (char *)scratch + room(weight, 1));
}
#endif
