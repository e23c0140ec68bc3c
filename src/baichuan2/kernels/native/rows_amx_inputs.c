/* Inputs for the matrix unit: integers of two digits with a scale for each 64 of them, as tiles. */
#include "rows_amx.h"

enum { GREATEST = 127 * 256 + 127 }; /* of two digits with signs */

int64_t room_amx(const Weight *weight, int64_t num_rows) {
    const Inputs inputs = inputs_of(weight, NULL, num_rows);
    const int64_t of_tile = bytes_of_block(&inputs) + WIDTH * (int64_t)sizeof(float);
    const int64_t of_row = inputs.blocks * BLOCK + inputs.entries;
    return inputs.tiles * inputs.blocks * of_tile + num_rows * of_row * (int64_t)sizeof(float);
}

/* Which input of a block of NF4 meets level `place` of a tile: low halves of bytes come first, and are the later ones. */
static int input_of_nf4(int place) { return 2 * (place % 32) + (place < 32); }

/* Four vectors of integers become one of bytes: their last ones. */
INLINE __m512i bytes_of(const __m512i *numbers) {
    __m512i bytes = _mm512_castsi128_si512(_mm512_cvtepi32_epi8(numbers[0]));
    bytes = _mm512_inserti32x4(bytes, _mm512_cvtepi32_epi8(numbers[1]), 1);
    bytes = _mm512_inserti32x4(bytes, _mm512_cvtepi32_epi8(numbers[2]), 2);
    return _mm512_inserti32x4(bytes, _mm512_cvtepi32_epi8(numbers[3]), 3);
}

/* The digits of a block of a row, of which `rest` inputs lie at `from`, and the scale of the second ones; NaN: integers
 * cannot hold the block, which is in `floats` then. `order`: of NF4. */
INLINE float digits_of(const float *from, int64_t rest, const __m512i *order, float *floats, __m512i *first,
                       __m512i *second) {
    __m512 values[4];
    __m512i most = _mm512_setzero_si512(), numbers[4]; /* magnitudes compare like integers, NaN above all */
    for (int i = 0; i < 4; i++) {
        const int64_t count = rest - WIDTH * i;
        values[i] = _mm512_maskz_loadu_ps(count > 0 ? first_of(count) : 0, from + WIDTH * i);
        const __m512i bits = _mm512_and_si512(_mm512_castps_si512(values[i]), _mm512_set1_epi32(0x7fffffff));
        most = _mm512_max_epu32(most, bits);
    }
    const float greatest = float_of_bits(_mm512_reduce_max_epu32(most));
    *first = *second = _mm512_setzero_si512();
    if (greatest == 0) return 0.0f;
    if (!(greatest >= 0x1p-64f && greatest <= 0x1p80f)) {
        for (int i = 0; i < 4; i++) _mm512_store_ps(floats + WIDTH * i, values[i]);
        return NAN;
    }
    const __m512 factor = _mm512_set1_ps(GREATEST / greatest);
    for (int i = 0; i < 4; i++) numbers[i] = _mm512_cvtps_epi32(_mm512_mul_ps(values[i], factor));
    *second = bytes_of(numbers);
    for (int i = 0; i < 4; i++)
        numbers[i] = _mm512_srai_epi32(_mm512_add_epi32(numbers[i], _mm512_set1_epi32(128)), 8);
    *first = bytes_of(numbers);
    if (order) {
        *first = _mm512_permutexvar_epi8(*order, *first);
        *second = _mm512_permutexvar_epi8(*order, *second);
    }
    return greatest / GREATEST;
}

/* Block `block` of the `rows` rows of tile `tile`, as far as there are. */
INLINE void prepare_block(const Weight *weight, const float *inputs, int64_t num_rows, const Inputs *to, const int rows,
                          int64_t tile, int64_t block, const __m512i *order) {
    const int64_t rest = weight->num_inputs - block * BLOCK, count = per_block(weight);
    const int columns = 2 * rows;
    __m512i first, second;
    __m512 lines[16];
    float scales[WIDTH] = {0};
    for (int i = 0; i < 16; i++) lines[i] = _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++) {
        const int64_t row = tile * rows + m;
        if (row >= num_rows || rest <= 0) break;
        float *floats = to->floats + (row * to->blocks + block) * BLOCK;
        scales[m] = digits_of(inputs + row * weight->num_inputs + block * BLOCK, rest, order, floats, &first, &second);
        lines[m] = _mm512_castsi512_ps(first);
        lines[rows + m] = _mm512_castsi512_ps(second);
    }
    char *target = to->digits + (tile * to->blocks + block) * columns * BLOCK;
    transpose(lines);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm512_mask_storeu_ps(target + i * columns * 4, first_of(columns), lines[i]);
    for (int64_t m = 0; m < rows && tile * rows + m < num_rows; m++)
        for (int64_t i = 0; i < count; i++) to->scales[(tile * rows + m) * to->entries + block * count + i] = scales[m];
    float *factors = to->factors + (tile * to->blocks + block) * WIDTH;
    for (int i = 0; i < WIDTH; i++) {
        const float scale = scales[i % rows];
        factors[i] = scale != scale ? 0.0f : i % columns < rows ? 256 * scale : scale;
    }
}

void prepare_amx(const Weight *weight, const float *inputs, int64_t num_rows, void *prepared, int part, int parts) {
    const Inputs to = inputs_of(weight, prepared, num_rows);
    const int64_t count = to.tiles * to.blocks;
    uint8_t places[BLOCK];
    for (int i = 0; i < BLOCK; i++) places[i] = (uint8_t)input_of_nf4(i);
    const __m512i order = _mm512_loadu_si512(places), *given = weight->format == FORMAT_NF4 ? &order : NULL;
    for (int64_t at = share(count, part, parts); at < share(count, part + 1, parts); at++) {
        const int64_t tile = at / to.blocks, block = at % to.blocks;
        switch (to.rows) { /* constant numbers leave nothing of a transposition but what moves */
        case 1: prepare_block(weight, inputs, num_rows, &to, 1, tile, block, given); break;
        case 2: prepare_block(weight, inputs, num_rows, &to, 2, tile, block, given); break;
        case 4: prepare_block(weight, inputs, num_rows, &to, 4, tile, block, given); break;
        default: prepare_block(weight, inputs, num_rows, &to, ROWS_OF_TILE, tile, block, given);
        }
    }
}
