/* Weights in 4 or 8 bits times inputs in float32, for AVX-512 without further extensions; int8 on every AVX-512.
 *
 * 4 bits: the 64 bytes of a step are 16 numbers of 32 bits with eight codes each. Each of eight shifts brings one code
 * of every number to its low bits; the look-up of a level reads the low four and ignores the rest.
 */
#include "avx512.h"

/* Number d of shift s holds code s of its four bytes, low halves first; 8 numbers are a block of 64 inputs. */
int place_avx512(int format, int position) {
    if (format == FORMAT_INT8) return position;
    const int shift = position / 16, number = position % 16, block = number / 8;
    const int byte = number % 8 * 4 + shift / 2, is_high = shift % 2;
    return block * 64 + (format == FORMAT_NF4 ? 2 * byte + !is_high : byte + 32 * is_high);
}

/* The levels of a step of 4-bit codes: vector s is of shift s. */
static inline __attribute__((always_inline)) void levels_of_4_bits(__m512i codes, __m512 table, __m512 *levels) {
#pragma GCC unroll 8
    for (int s = 0; s < 8; s++) levels[s] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4 * s), table);
}

/* 128 codes of int8 from input `start` on as float32, in their order; zeros beyond the row. */
static inline __attribute__((always_inline)) void levels_of_8_bits(const uint8_t *row, int64_t start, int64_t size,
                                                                   __m512 *levels) {
#pragma GCC unroll 8
    for (int s = 0; s < 8; s++) {
        const int64_t rest = size - start - 16 * s;
        const __mmask16 mask = rest >= 16 ? 0xffff : rest <= 0 ? 0 : (__mmask16)((1 << rest) - 1);
        levels[s] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, row + start + 16 * s)));
    }
}

/* The scale of vector s of a step: int4 and nf4 by lane, int8 one for all lanes. */
static inline __attribute__((always_inline)) __m512 scale_of(int64_t group_size, int is_four_bits, int vector,
                                                            const float *step_scales, __m512i low, __m512i high) {
    if (!is_four_bits) return _mm512_set1_ps(step_scales[16 * vector / (group_size ? group_size : 64)]);
    return _mm512_permutexvar_ps(vector % 2 ? high : low, _mm512_loadu_ps(step_scales));
}

/* Four of the eight vectors of a step that share their scale: every second one, or one half. */
#define FOUR(x, levels, a, b, c, d)                                                                            \
    _mm512_fmadd_ps(_mm512_load_ps((x) + 16 * (a)), levels[a],                                                 \
    _mm512_fmadd_ps(_mm512_load_ps((x) + 16 * (b)), levels[b],                                                 \
    _mm512_fmadd_ps(_mm512_load_ps((x) + 16 * (c)), levels[c], _mm512_mul_ps(_mm512_load_ps((x) + 16 * (d)), levels[d]))))
#define TWO(x, levels, a, b) \
    _mm512_fmadd_ps(_mm512_load_ps((x) + 16 * (a)), levels[a], _mm512_mul_ps(_mm512_load_ps((x) + 16 * (b)), levels[b]))

static inline __attribute__((always_inline)) void tile_of(const Product *product, const float *inputs, int64_t first_row,
                                                          const int num_rows, int64_t output, const int count,
                                                          const int is_fine, const int is_four_bits, float *scales) {
    const int64_t steps = num_steps(product), size = row_bytes(product), room = scale_room(product);
    const int64_t group_size = product->group_size;
    const int per_step = groups_of_step(group_size);
    const __m512i low_places = scale_places(group_size, 0), high_places = scale_places(group_size, 1);
    const __m512 table = is_four_bits ? _mm512_loadu_ps(product->levels) : _mm512_setzero_ps();
    const uint8_t *codes = product->codes + output * size;
    const float *x = inputs + first_row * steps * STEP;
    __m512 sums[MOST_OUTPUTS_AT_ONCE][MOST_INPUT_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < count; r++) {
        fill_scales(product, output + r, scales + r * room);
#pragma GCC unroll 8
        for (int m = 0; m < num_rows; m++) sums[r][m] = _mm512_setzero_ps();
    }
    for (int64_t step = 0; step < steps; step++) {
#pragma GCC unroll 8
        for (int r = 0; r < count; r++) {
            const uint8_t *row = codes + r * size;
            const float *here_scales = scales + r * room + step * per_step;
            __m512 levels[8], by[4];
            if (is_four_bits) levels_of_4_bits(load_codes(row, step * 64, size), table, levels);
            else levels_of_8_bits(row, step * STEP, size, levels);
            /* by[i]: the scale of vectors 2i and 2i + 1 of int8; of even and odd vectors of 4 bits */
            for (int i = 0; i < 4; i++)
                by[i] = scale_of(group_size, is_four_bits, is_four_bits ? i % 2 : 2 * i, here_scales, low_places, high_places);
#pragma GCC unroll 8
            for (int m = 0; m < num_rows; m++) {
                const float *here = x + (m * steps + step) * STEP;
                __m512 sum = sums[r][m];
                if (is_four_bits && !is_fine) {
                    const __m512 all = _mm512_add_ps(FOUR(here, levels, 0, 2, 4, 6), FOUR(here, levels, 1, 3, 5, 7));
                    sum = _mm512_fmadd_ps(all, by[0], sum);
                } else if (is_four_bits) {
                    sum = _mm512_fmadd_ps(FOUR(here, levels, 0, 2, 4, 6), by[0], sum);
                    sum = _mm512_fmadd_ps(FOUR(here, levels, 1, 3, 5, 7), by[1], sum);
                } else if (!is_fine) {
                    sum = _mm512_fmadd_ps(FOUR(here, levels, 0, 1, 2, 3), by[0], sum);
                    sum = _mm512_fmadd_ps(FOUR(here, levels, 4, 5, 6, 7), by[2], sum);
                } else {
                    sum = _mm512_fmadd_ps(TWO(here, levels, 0, 1), by[0], sum);
                    sum = _mm512_fmadd_ps(TWO(here, levels, 2, 3), by[1], sum);
                    sum = _mm512_fmadd_ps(TWO(here, levels, 4, 5), by[2], sum);
                    sum = _mm512_fmadd_ps(TWO(here, levels, 6, 7), by[3], sum);
                }
                sums[r][m] = sum;
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < count; r++)
#pragma GCC unroll 8
        for (int m = 0; m < num_rows; m++) store(product, first_row + m, output + r, _mm512_reduce_add_ps(sums[r][m]));
}

static inline __attribute__((always_inline)) void tile(const Product *product, const float *inputs, int64_t first_row,
                                                       const int num_rows, int64_t output, const int count,
                                                       const int is_fine, float *scales) {
    if (product->format == FORMAT_INT8) tile_of(product, inputs, first_row, num_rows, output, count, is_fine, 0, scales);
    else tile_of(product, inputs, first_row, num_rows, output, count, is_fine, 1, scales);
}

#define TILE_INPUT float
#include "tiles.h"

void multiply_avx512(const Product *product, const void *inputs, int64_t first_row, int num_rows, int64_t first,
                     int64_t last, float *scales) {
    run_tiles(product, inputs, first_row, num_rows, first, last, scales);
}
