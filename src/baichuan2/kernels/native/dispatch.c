/* Chooses the instruction set once, brings the inputs into the order of the kernel, and shares the outputs among threads. */
#include "rows_kernels.h"

#include <stdlib.h>
#ifdef __x86_64__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#ifdef __x86_64__
/* Which registers the operating system saves: bits of XCR0. */
static uint64_t saved_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Whether there is a matrix unit for bfloat16 and the operating system lets this process use it. */
static int may_use_tiles(uint64_t saved) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    uint32_t a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return 0;
    if ((saved >> 17 & 3) != 3) return 0;
#ifdef __linux__
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return 0;
#endif
}

static int detect(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return INSTRUCTIONS_PLAIN; /* no xgetbv */
    const int has_fma = c >> 12 & 1, has_f16c = c >> 29 & 1;
    const uint64_t saved = saved_registers();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (saved & 6) != 6) return INSTRUCTIONS_PLAIN;
    const int has_avx2 = b >> 5 & 1, has_avx512 = (b >> 16 & 1) && (b >> 30 & 1) && (b >> 31 & 1); /* F, BW, VL */
    if (!has_avx2 || !has_fma || !has_f16c) return INSTRUCTIONS_PLAIN;
    if (!has_avx512 || (saved & 0xe6) != 0xe6) return INSTRUCTIONS_AVX2;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return INSTRUCTIONS_AVX512;
    return may_use_tiles(saved) ? INSTRUCTIONS_AMX_BF16 : INSTRUCTIONS_AVX512_BF16;
}
#else
static int detect(void) { return INSTRUCTIONS_PLAIN; }
#endif

/* The best instruction set of this processor that there is a kernel for. */
int baichuan2_instructions(void) {
    static int found = -1; /* threads may race to store the same value */
    if (found < 0) found = detect();
    return found;
}

/* Bits of EXTENSION_VNNI, EXTENSION_VBMI and EXTENSION_AMX_INT8: what goes beyond AVX-512, where there is that. */
int baichuan2_extensions(void) {
    static int found = -1;
    if (found >= 0) return found;
    int extensions = 0;
#ifdef __x86_64__
    uint32_t a, b, c, d;
    if (baichuan2_instructions() >= INSTRUCTIONS_AVX512 && __get_cpuid_count(7, 0, &a, &b, &c, &d))
        extensions = (c >> 11 & 1 ? EXTENSION_VNNI : 0) | (c >> 1 & 1 ? EXTENSION_VBMI : 0) |
                     (d >> 25 & 1 ? EXTENSION_AMX_INT8 : 0);
#endif
    return found = extensions;
}

/* So that a library of another version is not read by the wrong layout. */
int64_t baichuan2_product_size(void) { return sizeof(Product); }

static int place_plain(int format, int position) {
    (void)format;
    return position;
}

enum {
    LEAST_ROWS_AMX = 3,                  /* below, filling tiles costs more than it saves */
    LEAST_ROWS_MANY = MOST_ROWS_AMX + 1, /* from here on each weight is computed in bfloat16, once for many rows */
};

typedef struct {
    Kernel multiply;
    int (*place)(int format, int position);
    int is_bfloat16; /* of the prepared inputs; else float32 */
    int most_rows;   /* handled in one pass */
} Choice;

static Choice choose(const Product *product, int instructions) {
#ifdef __x86_64__
    const int is_four_bits = product->format != FORMAT_INT8;
    const int is_exact_in_bf16 = is_four_bits && product->number == NUMBER_BFLOAT16;
    if (instructions >= INSTRUCTIONS_AMX_BF16 && is_exact_in_bf16 && product->num_rows >= LEAST_ROWS_AMX)
        return (Choice){multiply_amx_bf16, NULL, 1, MOST_ROWS_AMX};
    if (instructions >= INSTRUCTIONS_AVX512_BF16 && is_exact_in_bf16)
        return (Choice){multiply_avx512_bf16, place_avx512_bf16, 1, MOST_INPUT_ROWS};
    if (instructions >= INSTRUCTIONS_AVX512) return (Choice){multiply_avx512, place_avx512, 0, MOST_INPUT_ROWS};
    if (instructions >= INSTRUCTIONS_AVX2) return (Choice){multiply_avx2, place_avx2, 0, MOST_INPUT_ROWS};
#endif
    (void)product;
    (void)instructions;
    return (Choice){multiply_plain, place_plain, 0, MOST_INPUT_ROWS};
}

/* The inputs (M, steps * STEP) in the kernel's order, zeros beyond K. */
static void prepare(const Product *product, Choice choice, void *prepared) {
    const int64_t num_inputs = product->num_inputs, steps = num_steps(product);
#ifdef __x86_64__
    if (!choice.place) {
        prepare_amx_bf16(product, prepared);
        return;
    }
#endif
    int places[STEP];
    for (int i = 0; i < STEP; i++) places[i] = choice.place(product->format, i);
    for (int64_t row = 0; row < product->num_rows; row++)
        for (int64_t step = 0; step < steps; step++) {
            const int64_t base = row * num_inputs + step * STEP, target = (row * steps + step) * STEP;
            const int64_t rest = num_inputs - step * STEP;
            if (choice.is_bfloat16) {
                const uint16_t *from = (const uint16_t *)product->inputs + base;
                for (int i = 0; i < STEP; i++)
                    ((uint16_t *)prepared)[target + i] = places[i] < rest ? from[places[i]] : 0;
            } else
                for (int i = 0; i < STEP; i++)
                    ((float *)prepared)[target + i] = places[i] < rest ? input_at(product, base + places[i]) : 0.0f;
        }
}

/* Computes the product. 0, or -1 without memory. `instructions`: the most that may be used; `threads`: at least 1. */
int baichuan2_multiply(const Product *product, int instructions, int threads) {
    if (instructions > baichuan2_instructions()) instructions = baichuan2_instructions();
#ifdef __x86_64__
    const int is_for_tiles = instructions >= INSTRUCTIONS_AMX_BF16 && product->number == NUMBER_BFLOAT16;
    if (is_for_tiles && (product->num_rows >= LEAST_ROWS_MANY || product->format == FORMAT_BFLOAT16))
        return multiply_many_amx(product, threads);
#endif
    if (product->format == FORMAT_BFLOAT16) return -1; /* nobody asks for it elsewhere: see products.py */
    const Choice choice = choose(product, instructions);
    const int64_t steps = num_steps(product), outputs = product->num_outputs;
    const size_t width = choice.is_bfloat16 ? 2 : 4;
    const size_t room = (size_t)SHARE_OF_OUTPUTS * scale_room(product) * sizeof(float);
    /* tiles hold 16 rows */
    const size_t inputs_size = ((size_t)((product->num_rows + 15) / 16 * 16) * steps * STEP * width + 63) / 64 * 64;
    char *memory = aligned_alloc(64, inputs_size + (size_t)threads * room);
    if (!memory) return -1;
    prepare(product, choice, memory);
    const int64_t blocks = (outputs + SHARE_OF_OUTPUTS - 1) / SHARE_OF_OUTPUTS;
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(threads)
#endif
    for (int thread = 0; thread < threads; thread++) {
        const int64_t first = blocks * thread / threads * SHARE_OF_OUTPUTS;
        int64_t last = blocks * (thread + 1) / threads * SHARE_OF_OUTPUTS;
        if (last > outputs) last = outputs;
        float *scales = (float *)(memory + inputs_size + (size_t)thread * room);
        for (int64_t row = 0; row < product->num_rows; row += choice.most_rows) {
            const int64_t rest = product->num_rows - row;
            const int num_rows = rest < choice.most_rows ? (int)rest : choice.most_rows;
            choice.multiply(product, memory, row, num_rows, first, last, scales);
        }
    }
    free(memory);
    return 0;
}
