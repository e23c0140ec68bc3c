/* Inputs as rows_amx_inputs.c prepares them and rows_amx.c multiplies them. */
#ifndef BAICHUAN2_ROWS_AMX_H
#define BAICHUAN2_ROWS_AMX_H

#include "rows_avx512.h"

enum { ROWS_OF_TILE = 8 };

/* Prepared inputs. A tile of them has `rows` rows and two columns for each: first digits, then second ones. */
typedef struct {
    char *digits;   /* (tiles, blocks): 16 times four inputs of each column */
    float *factors; /* (tiles, blocks, 16): what the columns count for, again and again; 0 where scales are no numbers */
    float *scales;  /* (M, entries), as `special_sum` wants them; NaN: the block is in `floats`, and zeros elsewhere */
    float *floats;  /* (M, blocks, BLOCK) */
    int64_t blocks, entries, tiles, rows;
} Inputs;

INLINE int64_t columns_of(int64_t rows) { return 2 * rows; }

INLINE int64_t bytes_of_block(const Inputs *inputs) { return columns_of(inputs->rows) * BLOCK; }

static inline Inputs inputs_of(const Weight *weight, const void *prepared, int64_t num_rows) {
    Inputs inputs = {.blocks = (num_blocks(weight) + 1) / 2 * 2, .rows = ROWS_OF_TILE};
    while (inputs.rows > 1 && inputs.rows / 2 >= num_rows) inputs.rows /= 2;
    inputs.tiles = (num_rows + inputs.rows - 1) / inputs.rows;
    inputs.entries = inputs.blocks * per_block(weight);
    inputs.digits = (char *)prepared;
    inputs.factors = (float *)(inputs.digits + inputs.tiles * inputs.blocks * bytes_of_block(&inputs));
    inputs.floats = inputs.factors + inputs.tiles * inputs.blocks * WIDTH;
    inputs.scales = inputs.floats + num_rows * inputs.blocks * BLOCK;
    return inputs;
}

int64_t room_amx(const Weight *weight, int64_t num_rows);
void prepare_amx(const Weight *weight, const float *inputs, int64_t num_rows, void *prepared, int part, int parts);

/* 16 vectors become their columns. */
INLINE void transpose(__m512 *v) {
    __m512 w[16];
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        const __m512 a = _mm512_unpacklo_ps(v[i], v[i + 1]), b = _mm512_unpackhi_ps(v[i], v[i + 1]);
        const __m512 c = _mm512_unpacklo_ps(v[i + 2], v[i + 3]), d = _mm512_unpackhi_ps(v[i + 2], v[i + 3]);
        w[i] = _mm512_shuffle_ps(a, c, 0x44);
        w[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        w[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        w[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512 a = _mm512_shuffle_f32x4(w[i], w[4 + i], 0x88), b = _mm512_shuffle_f32x4(w[i], w[4 + i], 0xdd);
        const __m512 c = _mm512_shuffle_f32x4(w[8 + i], w[12 + i], 0x88);
        const __m512 d = _mm512_shuffle_f32x4(w[8 + i], w[12 + i], 0xdd);
        v[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        v[4 + i] = _mm512_shuffle_f32x4(b, d, 0x88);
        v[8 + i] = _mm512_shuffle_f32x4(a, c, 0xdd);
        v[12 + i] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

#endif
