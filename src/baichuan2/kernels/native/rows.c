/* Chooses the kernels of rows.h by instruction set and format. */
#include "rows_kernels.h"

#include <stdlib.h>

/* Fewer rows than the least are faster by vector instructions, more than the most by the modules' products. */
enum { LEAST_ROWS_AMX = 3, MOST_ROWS_AMX_STEP = 16 };

static int limit = -1; /* threads may race to store the same value */

void rows_limit(int instructions) { limit = instructions; }

int rows_instructions(void) {
    if (limit < 0) {
        const char *value = getenv("BAICHUAN2_KERNELS");
        limit = value && *value >= '0' && *value <= '9' ? atoi(value) : INSTRUCTIONS_AMX_BF16;
    }
    const int found = baichuan2_instructions();
    return found < limit ? found : limit;
}

#ifdef __x86_64__
/* Whether the matrix unit multiplies bytes here; processors that have it also have VNNI and VBMI. */
static int has_amx(int instructions) {
    const int needed = EXTENSION_VBMI | EXTENSION_AMX_INT8;
    return instructions >= INSTRUCTIONS_AMX_BF16 && (baichuan2_extensions() & needed) == needed;
}

/* Of AVX-512, by its extensions. Tests reach the lesser ones by a limit below what the processor has. */
static const RowsKernel *kernel_of_avx512(int instructions) {
    const int is_limited = instructions < baichuan2_instructions(), extensions = baichuan2_extensions();
    const int is_plain = is_limited && instructions == INSTRUCTIONS_AVX512;
    if (!(extensions & EXTENSION_VNNI) || is_plain) return &rows_kernel_avx512;
    return extensions & EXTENSION_VBMI && !is_limited ? &rows_kernel_vbmi : &rows_kernel_vnni;
}
#endif

static const RowsKernel *kernel_of(const Weight *weight, int64_t num_rows) {
    const int instructions = rows_instructions();
    (void)weight;
    (void)num_rows;
    (void)instructions;
#ifdef __x86_64__
    if (has_amx(instructions) && !is_16_bits(weight) && num_rows >= LEAST_ROWS_AMX) return &rows_kernel_amx;
    if (instructions >= INSTRUCTIONS_AVX512) return kernel_of_avx512(instructions);
    if (instructions >= INSTRUCTIONS_AVX2) return is_16_bits(weight) ? &rows_kernel_numbers_avx2 : &rows_kernel_avx2;
#endif
    return &rows_kernel_plain;
}

int64_t rows_room(const Weight *weight, int64_t num_rows) {
    return (kernel_of(weight, num_rows)->room(weight, num_rows) + 63) / 64 * 64;
}

int64_t rows_scratch(const Weight *weight) {
    const int64_t few = kernel_of(weight, 1)->scratch(weight), many = kernel_of(weight, MOST_ROWS)->scratch(weight);
    return ((few > many ? few : many) + 63) / 64 * 64;
}

void rows_prepare(const Weight *weight, const float *inputs, int64_t num_rows, void *prepared, int part, int parts) {
    kernel_of(weight, num_rows)->prepare(weight, inputs, num_rows, prepared, part, parts);
}

void rows_multiply(const Weight *weight, const void *prepared, int64_t num_rows, int64_t first, int64_t last, float *out,
                   int64_t stride, void *scratch) {
    kernel_of(weight, num_rows)->multiply(weight, prepared, num_rows, first, last, out, stride, scratch);
}

int baichuan2_step_rows(int instructions, int is_16_bits) {
    const int used = baichuan2_instructions() < instructions ? baichuan2_instructions() : instructions;
    if (used == INSTRUCTIONS_AVX2) return MOST_ROWS;
    if (used < INSTRUCTIONS_AVX512) return 0;
#ifdef __x86_64__
    if (has_amx(used) && !is_16_bits) return MOST_ROWS_AMX_STEP;
    if (kernel_of_avx512(used) == &rows_kernel_avx512) return 0;
#endif
    (void)is_16_bits;
    /* by counting instructions; the matrix unit's products, which only the modules use, are faster from then on */
    return used == INSTRUCTIONS_AMX_BF16 ? 2 : 8;
}

int64_t baichuan2_weight_size(void) { return sizeof(Weight); }
