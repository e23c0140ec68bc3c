/* Weights in 4 or 8 bits times inputs in float32, for AVX2, FMA and F16C.
 *
 * 4 bits: each byte of the 16 levels in float32 is a table of 16 bytes, looked up for 32 codes at once, and the bytes are
 * put together again. The levels of int4 are 8-bit numbers: their two low bytes are zero, and not looked up.
 */
#include "product.h"

#include <immintrin.h>

enum { HALF = 32 }; /* inputs handled at once: the codes of the low or the high halves of 32 bytes, in one group */

/* What the look-ups leave: vector v of a half has bytes 4v to 4v + 3 and 4v + 16 to 4v + 19. */
int place_avx2(int format, int position) {
    if (format == FORMAT_INT8) return position;
    const int half = position / HALF, vector = position % HALF / 8, element = position % 8;
    const int byte = 4 * vector + (element < 4 ? element : element + 12), is_high = half % 2;
    return half / 2 * 64 + (format == FORMAT_NF4 ? 2 * byte + !is_high : byte + 32 * is_high);
}

/* Byte `which` of each of 16 levels, twice. */
static __m256i byte_table(const float *levels, int which) {
    uint8_t bytes[16];
    for (int i = 0; i < 16; i++) memcpy(bytes + i, (const char *)(levels + i) + which, 1);
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)bytes));
}

static inline __attribute__((always_inline)) void levels_of_4_bits(__m256i codes, const __m256i *tables, int has_fraction,
                                                                   __m256 *levels) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i third = _mm256_shuffle_epi8(tables[2], codes), fourth = _mm256_shuffle_epi8(tables[3], codes);
    const __m256i high_words[2] = {_mm256_unpacklo_epi8(third, fourth), _mm256_unpackhi_epi8(third, fourth)};
    __m256i low_words[2] = {zero, zero};
    if (has_fraction) {
        const __m256i first = _mm256_shuffle_epi8(tables[0], codes), second = _mm256_shuffle_epi8(tables[1], codes);
        low_words[0] = _mm256_unpacklo_epi8(first, second);
        low_words[1] = _mm256_unpackhi_epi8(first, second);
    }
    for (int i = 0; i < 2; i++) {
        levels[2 * i] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low_words[i], high_words[i]));
        levels[2 * i + 1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low_words[i], high_words[i]));
    }
}

/* 32 codes of int8, or the `rest` that is left, as float32 in their order. */
static inline void levels_of_8_bits(const uint8_t *codes, int64_t rest, __m256 *levels) {
    uint8_t padded[HALF] = {0};
    if (rest < HALF) codes = memcpy(padded, codes, rest);
    for (int i = 0; i < 4; i++)
        levels[i] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(codes + 8 * i))));
}

static inline float scale_of(const Product *product, int64_t index) {
    if (product->scale_kind != SCALES_FLOAT16) return scale_at(product, index);
    uint16_t half;
    memcpy(&half, (const char *)product->scales + 2 * index, sizeof half);
    return _cvtsh_ss(half) * unit(product);
}

static inline float sum_of(__m256 values) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

static inline __attribute__((always_inline)) void tile(const Product *product, const float *inputs, int64_t first_row,
                                                       const int num_rows, int64_t output, const int format) {
    const int64_t stride = num_steps(product) * STEP, num_inputs = product->num_inputs, groups = num_groups(product);
    const int64_t size = product->group_size ? product->group_size : num_inputs;
    const uint8_t *codes = product->codes + output * row_bytes(product);
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i tables[4];
    for (int i = 0; i < 4; i++) tables[i] = format == FORMAT_INT8 ? mask : byte_table(product->levels, i);
    __m256 sums[MOST_INPUT_ROWS];
    for (int m = 0; m < num_rows; m++) sums[m] = _mm256_setzero_ps();
    /* nf4 has inputs of both halves of a block in each; its group is the block */
    for (int64_t start = 0; start < num_inputs; start += HALF) {
        __m256 levels[4];
        if (format == FORMAT_INT8) levels_of_8_bits(codes + start, num_inputs - start, levels);
        else {
            const __m256i bytes = _mm256_loadu_si256((const __m256i *)(codes + start / 64 * 32));
            const __m256i found = start % 64 ? _mm256_srli_epi16(bytes, 4) : bytes;
            levels_of_4_bits(_mm256_and_si256(found, mask), tables, format == FORMAT_NF4, levels);
        }
        const __m256 scale = _mm256_set1_ps(scale_of(product, output * groups + start / size));
        for (int m = 0; m < num_rows; m++) {
            const float *x = inputs + (first_row + m) * stride + start;
            __m256 sum = _mm256_mul_ps(_mm256_load_ps(x), levels[0]);
            for (int i = 1; i < 4; i++) sum = _mm256_fmadd_ps(_mm256_load_ps(x + 8 * i), levels[i], sum);
            sums[m] = _mm256_fmadd_ps(sum, scale, sums[m]);
        }
    }
    for (int m = 0; m < num_rows; m++) store(product, first_row + m, output, sum_of(sums[m]));
}

static inline __attribute__((always_inline)) void outputs_of(const Product *product, const float *inputs,
                                                             int64_t first_row, const int num_rows, int64_t first,
                                                             int64_t last) {
    for (int64_t n = first; n < last; n++) {
        if (product->format == FORMAT_INT8) tile(product, inputs, first_row, num_rows, n, FORMAT_INT8);
        else if (product->format == FORMAT_INT4) tile(product, inputs, first_row, num_rows, n, FORMAT_INT4);
        else tile(product, inputs, first_row, num_rows, n, FORMAT_NF4);
    }
}

/* Rows in parts of 8, 4, 2 and 1, constants that the compiler keeps in registers. */
void multiply_avx2(const Product *product, const void *inputs, int64_t first_row, int num_rows, int64_t first,
                   int64_t last, float *scales) {
    (void)scales;
    if (num_rows == 8) return outputs_of(product, inputs, first_row, 8, first, last);
    if (num_rows & 4) outputs_of(product, inputs, first_row, 4, first, last);
    first_row += num_rows & 4;
    if (num_rows & 2) outputs_of(product, inputs, first_row, 2, first, last);
    first_row += num_rows & 2;
    if (num_rows & 1) outputs_of(product, inputs, first_row, 1, first, last);
}
