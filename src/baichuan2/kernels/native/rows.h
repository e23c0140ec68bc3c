/* Products of few rows of inputs (1 to 64) with a weight, at the speed at which memory gives the weight.
 *
 * Two stages, both called by every thread of the caller's own parallel region: `rows_prepare` brings the inputs into the
 * order of the kernel, each thread its part, then, after a barrier of the caller's, `rows_multiply` computes ranges of
 * outputs. A result depends neither on the other rows nor on how outputs and preparation are shared among threads; where
 * there is AMX, up to two rows are summed in another order than more.
 *
 * On AVX2, AVX-512 VNNI and AMX inputs of each 64 are 16-bit integers with a scale (products with 4-bit and 8-bit
 * weights): an error of 2^-16 of the greatest of them. Inputs that are no numbers, infinite, or whose block of 64 has its
 * greatest magnitude beyond 2^80 or below 2^-64 are multiplied in float32, which is slow. All pointers may be unaligned
 * but `prepared` and `scratch` (64 bytes).
 */
#ifndef BAICHUAN2_ROWS_H
#define BAICHUAN2_ROWS_H

#include "product.h"

enum { MOST_ROWS = 64 };

/* A weight (N, K), of which w[n][k] = scale of the group of (n, k) * level of the code, or just the number of FORMAT_BFLOAT16
 * and FORMAT_FLOAT16. Fields as in product.h; the layout is mirrored in Python: change both. */
typedef struct {
    const void *codes;
    const void *scales;
    const float *levels;
    const float *nested_levels;
    const float *nested_scales;
    int64_t num_outputs;
    int64_t num_inputs;
    int64_t group_size;
    float offset;
    int32_t format;
    int32_t scale_kind;
} Weight;

/* Bytes of the prepared inputs of `num_rows` rows, a multiple of 64. */
int64_t rows_room(const Weight *weight, int64_t num_rows);

/* Bytes of scratch that a thread needs in `rows_multiply`, a multiple of 64. */
int64_t rows_scratch(const Weight *weight);

/* Part `part` of `parts` of the preparation of `inputs` (num_rows, K); all parts together are everything. */
void rows_prepare(const Weight *weight, const float *inputs, int64_t num_rows, void *prepared, int part, int parts);

/* out[m * stride + n - first] for first <= n < last and all rows m. Fastest where `first` is a multiple of 16. */
void rows_multiply(const Weight *weight, const void *prepared, int64_t num_rows, int64_t first, int64_t last, float *out,
                   int64_t stride, void *scratch);

/* The most of the INSTRUCTIONS that is used from now on, for tests: not while other threads compute, and not between
 * preparation and product. At first it is the number in the environment variable BAICHUAN2_KERNELS, or any. */
void rows_limit(int instructions);

/* The number of the instruction set that is used. */
int rows_instructions(void);

/* For how many rows in one call a step of weights in few bits, or in 16, beats the modules' passes with up to these
 * instructions; 0: never. */
int baichuan2_step_rows(int instructions, int is_16_bits);

/* So that a library of another version is not read by the wrong layout. */
int64_t baichuan2_weight_size(void);

#endif
