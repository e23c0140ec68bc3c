/* What every kernel is given: one weight (N, K) in few bits, and where the product goes.
 *
 * A kernel computes y[m][n] = sum over k of x[m][k] * w[n][k] for a range of n, reading the weight where its file lies.
 * Weights are w[n][k] = scale of the group of (n, k) * level of the code. Pointers need no alignment.
 */
#ifndef BAICHUAN2_PRODUCT_H
#define BAICHUAN2_PRODUCT_H

#include <stdint.h>
#include <string.h>

enum { FORMAT_INT4 = 0, FORMAT_INT8 = 1, FORMAT_NF4 = 2, FORMAT_BFLOAT16 = 3, FORMAT_FLOAT16 = 4 };
enum { NUMBER_FLOAT32 = 0, NUMBER_BFLOAT16 = 1, NUMBER_FLOAT16 = 2 };
enum { SCALES_FLOAT16 = 0, SCALES_FLOAT32 = 1, SCALES_DOUBLE = 2 };
enum { INSTRUCTIONS_PLAIN = 0, INSTRUCTIONS_AVX2 = 1, INSTRUCTIONS_AVX512 = 2, INSTRUCTIONS_AVX512_BF16 = 3,
       INSTRUCTIONS_AMX_BF16 = 4 };

enum { STEP = 128 };        /* inputs a kernel handles at once; prepared inputs are filled up to it with zeros */
enum { MOST_INPUT_ROWS = 8, MOST_ROWS_AMX = 64 }; /* rows of inputs that share one reading of the weight */

/* The layout is mirrored by kernels/products.py: change both. */
typedef struct {
    const uint8_t *codes;     /* int4: 32 bytes for 64 inputs, see blockwise.py; int8: one each; nf4: flat, high half
                               * first; bfloat16, float16: the numbers, without scales (products: bfloat16 on tiles) */
    const void *scales;       /* (N, groups): float16, float32, or uint8 codes of `nested_levels` */
    const float *levels;      /* the 16 values of a 4-bit code */
    const float *nested_levels;  /* (256,), for SCALES_DOUBLE */
    const float *nested_scales;  /* one for each 256 groups, counted through the whole weight */
    const void *inputs;       /* (M, K), rows one after another */
    void *outputs;            /* (M, N) */
    int64_t num_outputs;      /* N */
    int64_t num_inputs;       /* K */
    int64_t num_rows;         /* M */
    int64_t group_size;       /* inputs that share a scale: 32, 64, 128, or 0: a whole row */
    float offset;             /* added to scales of SCALES_DOUBLE */
    int32_t format;
    int32_t scale_kind;
    int32_t number;           /* of inputs and outputs */
} Product;

/* Outputs first ... last - 1 of `num_rows` rows from `first_row` on, from inputs in the order that the kernel wants;
 * `scales` is room for SHARE_OF_OUTPUTS rows of `scale_room` numbers. */
typedef void (*Kernel)(const Product *product, const void *inputs, int64_t first_row, int num_rows, int64_t first,
                       int64_t last, float *scales);
enum { MOST_OUTPUTS_AT_ONCE = 4, SHARE_OF_OUTPUTS = 16 }; /* threads get multiples of the second, that of a tile */

void multiply_plain(const Product *, const void *, int64_t, int, int64_t, int64_t, float *);
void multiply_avx2(const Product *, const void *, int64_t, int, int64_t, int64_t, float *);
void multiply_avx512(const Product *, const void *, int64_t, int, int64_t, int64_t, float *);
void multiply_avx512_bf16(const Product *, const void *, int64_t, int, int64_t, int64_t, float *);
void multiply_amx_bf16(const Product *, const void *, int64_t, int, int64_t, int64_t, float *);
void prepare_amx_bf16(const Product *product, void *prepared);

/* The whole product of many rows of bfloat16 inputs; weights are rounded to bfloat16 after their scale. 0, or -1 without
 * memory. */
int multiply_many_amx(const Product *product, int threads);

/* Places of inputs within a step for the kernels that take codes apart in registers; see their files. */
int place_avx2(int format, int position);
int place_avx512(int format, int position);
int place_avx512_bf16(int format, int position);

static inline int64_t num_steps(const Product *product) { return (product->num_inputs + STEP - 1) / STEP; }

static inline int64_t num_groups(const Product *product) {
    int64_t size = product->group_size ? product->group_size : product->num_inputs;
    return (product->num_inputs + size - 1) / size;
}

/* Numbers a row of scales takes in float32: 4 groups of 32 in a step, and what a vector reads beyond them. */
static inline int64_t scale_room(const Product *product) { return (num_steps(product) * 4 + 63) / 16 * 16; }

static inline int64_t row_bytes(const Product *product) {
    if (product->format == FORMAT_INT8) return product->num_inputs;
    if (product->format == FORMAT_NF4) return product->num_inputs / 2;
    if (product->format == FORMAT_BFLOAT16) return product->num_inputs * 2;
    return (product->num_inputs + 63) / 64 * 32;
}

static inline float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of_bfloat16(uint16_t bits) { return float_of_bits((uint32_t)bits << 16); }

/* The nearest bfloat16, ties to even; NaN stays NaN. */
static inline uint16_t bfloat16_of_float(float value) {
    uint32_t bits = bits_of_float(value);
    if (value != value) return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float float_of_float16(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 31) return float_of_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent) return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float value = (float)fraction * 0x1p-24f; /* subnormal */
    return sign ? -value : value;
}

/* The nearest float16, ties to even; too large becomes infinite. */
static inline uint16_t float16_of_float(float value) {
    uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000) { /* subnormal: adding 0.5 leaves multiples of 2^-24 in the low bits, rounded to even */
        return (uint16_t)(sign | (bits_of_float(float_of_bits(rest) + 0.5f) - bits_of_float(0.5f)));
    }
    return (uint16_t)(sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13);
}

static inline float input_at(const Product *product, int64_t index) {
    if (product->number == NUMBER_BFLOAT16) return float_of_bfloat16(((const uint16_t *)product->inputs)[index]);
    if (product->number == NUMBER_FLOAT16) return float_of_float16(((const uint16_t *)product->inputs)[index]);
    return ((const float *)product->inputs)[index];
}

static inline void store(const Product *product, int64_t row, int64_t output, float value) {
    int64_t index = row * product->num_outputs + output;
    if (product->number == NUMBER_BFLOAT16) ((uint16_t *)product->outputs)[index] = bfloat16_of_float(value);
    else if (product->number == NUMBER_FLOAT16) ((uint16_t *)product->outputs)[index] = float16_of_float(value);
    else ((float *)product->outputs)[index] = value;
}

/* What a code of int8 counts for; the levels of 4-bit codes have it already. */
static inline float unit(const Product *product) { return product->format == FORMAT_INT8 ? 1.0f / 128 : 1.0f; }

/* The scale of one group of an output, in float32. */
static inline float scale_at(const Product *product, int64_t index) {
    if (product->scale_kind == SCALES_FLOAT16) {
        uint16_t half;
        memcpy(&half, (const char *)product->scales + 2 * index, sizeof half);
        return float_of_float16(half) * unit(product);
    }
    if (product->scale_kind == SCALES_FLOAT32) {
        float scale;
        memcpy(&scale, (const char *)product->scales + 4 * index, sizeof scale);
        return scale * unit(product);
    }
    uint8_t code = ((const uint8_t *)product->scales)[index];
    return product->nested_levels[code] * product->nested_scales[index / 256] + product->offset;
}

#endif
