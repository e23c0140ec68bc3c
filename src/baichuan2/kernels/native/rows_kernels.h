/* What each instruction set gives to rows.c. */
#ifndef BAICHUAN2_ROWS_KERNELS_H
#define BAICHUAN2_ROWS_KERNELS_H

#include "rows.h"

#include <math.h>

typedef struct {
    int64_t (*room)(const Weight *weight, int64_t num_rows);
    int64_t (*scratch)(const Weight *weight);
    void (*prepare)(const Weight *weight, const float *inputs, int64_t num_rows, void *prepared, int part, int parts);
    void (*multiply)(const Weight *weight, const void *prepared, int64_t num_rows, int64_t first, int64_t last,
                     float *out, int64_t stride, void *scratch);
} RowsKernel;

extern const RowsKernel rows_kernel_plain, rows_kernel_avx2, rows_kernel_numbers_avx2, rows_kernel_avx512,
    rows_kernel_vnni, rows_kernel_vbmi, rows_kernel_amx;

/* Outputs first ... last - 1 of one row of inputs (K,) in float32, whatever they are; `scratch`: `row_avx2_room` bytes. */
void multiply_row_avx2(const Weight *weight, const float *inputs, int64_t first, int64_t last, float *out, void *scratch);
int64_t row_avx2_room(const Weight *weight);

enum { EXTENSION_VNNI = 1, EXTENSION_VBMI = 2, EXTENSION_AMX_INT8 = 4 };

int baichuan2_instructions(void);
int baichuan2_extensions(void);

/* Part `part` of `parts` of `count` things: those from `share(count, part, parts)` to `share(count, part + 1, parts)`. */
static inline int64_t share(int64_t count, int part, int parts) { return count * part / parts; }

/* What integer levels of NF4 count in: the greatest is 15683.919 units, which all 16 of them meet up to 1.3e-5 (found by
 * search; no number below 16383 does better), and four products with inputs of 16 bits fit into 32. NaN where a level is
 * NaN. Levels too small for a unit become zeros. */
static inline float nf4_unit(const float *levels) {
    float most = 0;
    for (int i = 0; i < 16; i++) {
        float level;
        memcpy(&level, levels + i, sizeof level);
        if (level != level) return level;
        most = fabsf(level) > most ? fabsf(level) : most;
    }
    return most < 0x1p-112f ? 1.0f : most / 15683.919f;
}

static inline int is_16_bits(const Weight *weight) { return weight->format >= FORMAT_BFLOAT16; }

#endif
