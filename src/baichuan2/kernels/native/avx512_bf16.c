/* 4-bit weights times bfloat16 inputs: exact products of both, sums in float32.
 *
 * A step is 128 inputs: 64 bytes, or 32 words of four codes. Each of four shifts brings one code of every word to its
 * low bits, a table look-up turns it into a bfloat16 level (the levels of int4 are 8-bit numbers, so exact), and one
 * instruction multiplies 32 of them with inputs that were put into the same order beforehand. The look-up reads five
 * bits: the table stands twice, so that the fifth, of the next code, makes no difference.
 */
#include "avx512.h"

/* Word w of shift s holds code s of bytes 2w and 2w + 1, low halves first; 16 words are a block of 64 inputs. */
int place_avx512_bf16(int format, int position) {
    const int shift = position / 32, word = position % 32, block = word / 16;
    const int byte = word % 16 * 2 + shift / 2, is_high = shift % 2;
    return block * 64 + (format == FORMAT_NF4 ? 2 * byte + !is_high : byte + 32 * is_high);
}

#define DOT(sum, levels, x) _mm512_dpbf16_ps(sum, (__m512bh)(levels), (__m512bh)_mm512_load_si512(x))

/* `count` outputs from `output` on times `num_rows` rows; both constants, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void tile(const Product *product, const uint16_t *inputs, int64_t first_row,
                                                       const int num_rows, int64_t output, const int count,
                                                       const int is_fine, float *scales) {
    const int64_t steps = num_steps(product), size = row_bytes(product), room = scale_room(product);
    const int per_step = groups_of_step(product->group_size);
    const __m512i low_places = scale_places(product->group_size, 0), high_places = scale_places(product->group_size, 1);
    const __m512 levels = _mm512_loadu_ps(product->levels);
    const __m256i half_table = (__m256i)_mm512_cvtneps_pbh(levels);
    const __m512i table = _mm512_broadcast_i64x4(half_table);
    const uint8_t *codes = product->codes + output * size;
    const uint16_t *x = inputs + first_row * steps * STEP;
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
            _mm_prefetch((const char *)(row + step * 64 + count * size), _MM_HINT_T0);
            const __m512i words = load_codes(row, step * 64, size);
            const __m512i a = _mm512_permutexvar_epi16(words, table);
            const __m512i b = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), table);
            const __m512i c = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 8), table);
            const __m512i d = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 12), table);
            const __m512 found = _mm512_loadu_ps(scales + r * room + step * per_step);
            const __m512 low = _mm512_permutexvar_ps(low_places, found);
            const __m512 high = is_fine ? _mm512_permutexvar_ps(high_places, found) : low;
#pragma GCC unroll 8
            for (int m = 0; m < num_rows; m++) {
                const uint16_t *here = x + (m * steps + step) * STEP;
                const __m512 zero = _mm512_setzero_ps();
                const __m512 even = DOT(DOT(zero, a, here), c, here + 64);
                if (is_fine) {
                    const __m512 odd = DOT(DOT(zero, b, here + 32), d, here + 96);
                    sums[r][m] = _mm512_fmadd_ps(even, low, sums[r][m]);
                    sums[r][m] = _mm512_fmadd_ps(odd, high, sums[r][m]);
                } else
                    sums[r][m] = _mm512_fmadd_ps(DOT(DOT(even, b, here + 32), d, here + 96), low, sums[r][m]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < count; r++)
#pragma GCC unroll 8
        for (int m = 0; m < num_rows; m++) store(product, first_row + m, output + r, _mm512_reduce_add_ps(sums[r][m]));
}

#define TILE_INPUT uint16_t
#include "tiles.h"

void multiply_avx512_bf16(const Product *product, const void *inputs, int64_t first_row, int num_rows, int64_t first,
                          int64_t last, float *scales) {
    run_tiles(product, inputs, first_row, num_rows, first, last, scales);
}
