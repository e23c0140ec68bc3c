/* Rows of inputs as rows_avx2.c multiplies them: 16-bit integers with a scale for each block of 64.
 *
 * A chunk is 16 blocks. A chunk of the rows that meet a weight together lies in one piece, block after block, as it is
 * read. (Rows that lie a power of two apart are read at half the speed: they share few places of the nearest cache.)
 */
#ifndef BAICHUAN2_ROWS_AVX2_INPUTS_H
#define BAICHUAN2_ROWS_AVX2_INPUTS_H

#include "rows_avx2.h"

enum { DIGIT = 32767 }; /* an input's greatest; with levels of 15 bits, lanes hold sums of 4 products */

enum {
    CHUNK = 16,      /* blocks */
    ROWS_DIRECT = 8, /* up to so many rows meet a weight in the registers in which it was taken apart */
    ROWS_OF_TILE = 2 /* of more than that, so many together */
};

typedef struct {
    int16_t *digits; /* (chunks, groups of rows, CHUNK, rows of the group, BLOCK) in the order of `place` */
    float *scales;   /* (chunks, M, CHUNK, 1, or 2 for groups of 32: twice the same); NaN: the block is in `floats` */
    float *floats;   /* (chunks, M, CHUNK, BLOCK): blocks that integers cannot hold, in the order of the inputs */
} Inputs;

/* Scales of a block of a weight: two for groups of 32. */
static inline int scales_of_block(const Weight *weight) { return weight->group_size == 32 ? 2 : 1; }

static inline int64_t num_chunks(const Weight *weight) { return (num_blocks(weight) + CHUNK - 1) / CHUNK; }

static inline Inputs inputs_of(const Weight *weight, void *prepared, int64_t num_rows) {
    const int64_t blocks = num_chunks(weight) * num_rows * CHUNK;
    Inputs inputs = {.digits = prepared};
    inputs.scales = (float *)(inputs.digits + blocks * BLOCK);
    inputs.floats = inputs.scales + blocks * scales_of_block(weight);
    return inputs;
}

static int64_t room(const Weight *weight, int64_t num_rows) {
    const size_t of_block = BLOCK * (sizeof(int16_t) + sizeof(float)) + scales_of_block(weight) * sizeof(float);
    return num_rows * num_chunks(weight) * CHUNK * (int64_t)of_block;
}

/* Where the digits of a chunk of rows begin that meet a weight together; `row` is the first of them. */
static inline int64_t chunk_at(int64_t num_rows, int64_t chunk, int64_t row) {
    return (chunk * num_rows + row) * CHUNK * BLOCK;
}

/* Where those of one block of one row are. */
static inline int64_t digits_at(int64_t num_rows, int64_t block, int64_t row) {
    const int64_t most = num_rows <= ROWS_DIRECT ? num_rows : ROWS_OF_TILE;
    const int64_t first = row - row % most, rows = smaller(most, num_rows - first);
    return chunk_at(num_rows, block / CHUNK, first) + (block % CHUNK * rows + row - first) * BLOCK;
}

/* Which input of a block stands where: what `take_apart` leaves in its four registers. */
static int place(int format, int position) {
    const int vector = position / VECTOR, lane = position % VECTOR;
    if (format != FORMAT_NF4) return vector / 2 * 32 + 2 * lane + vector % 2;
    const int byte = lane + (lane < 8 ? 0 : 8) + vector % 2 * 8; /* high halves come first */
    return 2 * byte + vector / 2;
}

static void prepare_block(const float *from, int64_t rest, const int *places, int16_t *digits, float *scale, float *floats) {
    float block[BLOCK] = {0};
    memcpy(block, from, (size_t)smaller(rest, BLOCK) * sizeof *from);
    __m256i most = _mm256_setzero_si256(); /* magnitudes compare like integers, NaN above all */
    for (int i = 0; i < BLOCK; i += 8)
        most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(block + i)),
                                                       _mm256_set1_epi32(0x7fffffff)));
    __m128i half = _mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0xb1));
    const float greatest = float_of_bits((uint32_t)_mm_cvtsi128_si32(half));
    memset(digits, 0, BLOCK * sizeof *digits);
    *scale = 0;
    if (greatest == 0) return;
    if (!(greatest >= 0x1p-64f && greatest <= 0x1p80f)) { /* scaled sums stay far from infinite */
        *scale = NAN;
        memcpy(floats, block, sizeof block);
        return;
    }
    int32_t numbers[BLOCK];
    const __m256 factor = _mm256_set1_ps(DIGIT / greatest);
    for (int i = 0; i < BLOCK; i += 8)
        _mm256_storeu_si256((__m256i *)(numbers + i), _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(block + i), factor)));
    for (int i = 0; i < BLOCK; i++) digits[i] = (int16_t)numbers[places[i]];
    *scale = greatest / DIGIT;
}

/* Chunks of all rows are shared among the parts; one ends with empty blocks. */
static void prepare(const Weight *weight, const float *inputs, int64_t num_rows, void *prepared, int part, int parts) {
    const int64_t chunks = num_chunks(weight), width = weight->num_inputs;
    const int num_scales = scales_of_block(weight);
    const Inputs to = inputs_of(weight, prepared, num_rows);
    int places[BLOCK];
    for (int i = 0; i < BLOCK; i++) places[i] = place(weight->format, i);
    for (int64_t chunk = share(num_rows * chunks, part, parts); chunk < share(num_rows * chunks, part + 1, parts); chunk++)
        for (int64_t at = chunk * CHUNK; at < (chunk + 1) * CHUNK; at++) {
            const int64_t row = chunk % num_rows, start = (chunk / num_rows * CHUNK + at % CHUNK) * BLOCK;
            const int64_t rest = width > start ? width - start : 0;
            float *scales = to.scales + at * num_scales;
            int16_t *digits = to.digits + digits_at(num_rows, start / BLOCK, row);
            prepare_block(inputs + row * width + (rest ? start : 0), rest, places, digits, scales, to.floats + at * BLOCK);
            scales[num_scales - 1] = scales[0];
        }
}

#endif
