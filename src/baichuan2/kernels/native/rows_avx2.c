/* Products of few rows with weights in 4 and 8 bits, for AVX2, FMA and F16C.
 *
 * Inputs are 16-bit integers with a scale for each block of 64, levels of weights are 16-bit integers too: the sum of a
 * block is exact, and takes a multiplication for each 16 weights. Up to 8 rows meet the weight where it is taken apart,
 * in registers: one or two while the next of it comes from memory, more of them a piece of several outputs at a time,
 * while theirs stays in the nearest cache. Yet more rows take the weight from a panel of the cache, in tiles of 2 rows
 * and 3 outputs. Whichever way, a sum adds the same numbers in the same order.
 */
#include "rows_avx2_inputs.h"
#include "rows_avx2_weights.h"

/* Else compilers load a number again for each use, and order sums so that there are too few registers. */
#define IN_REGISTER(number) __asm__("" : "+x"(number))

enum {
    ROWS_STREAMED = 2,   /* up to so many rows take one output after the other, at the speed of the memory */
    OUTPUTS_AT_ONCE = 8, /* more rows take pieces of so many, in turns */
    OUTPUTS_OF_TILE = 3, /* with ROWS_OF_TILE: sums that fill the registers */
    OUTPUTS_OF_PANEL = 6,
};

typedef struct {
    const Weight *weight;
    Inputs inputs;
    Levels levels;
    float unit;
    int64_t num_rows, blocks, chunks, groups, first, last, stride; /* groups: of an output */
    float *out; /* output n of row m at m * stride + n - first */
    char *scratch;
} Call;

/* What the sum of an output counts in. */
INLINE float unit_of(const Call *call, int64_t output) {
    return call->weight->group_size ? call->unit : call->unit * scale_of(call->weight, output);
}

/* The products of a block's weights with its inputs, scaled and added to `sum`. Lanes of NF4 hold half a block at most. */
INLINE __m256 add_block(const int format, const int per_block, __m256 sum, const __m256i *weights, const int16_t *digits,
                        const float *scales) {
    const __m256i *x = (const __m256i *)digits;
    const __m256i lower = _mm256_add_epi32(_mm256_madd_epi16(weights[0], _mm256_loadu_si256(x)),
                                           _mm256_madd_epi16(weights[1], _mm256_loadu_si256(x + 1)));
    const __m256i upper = _mm256_add_epi32(_mm256_madd_epi16(weights[2], _mm256_loadu_si256(x + 2)),
                                           _mm256_madd_epi16(weights[3], _mm256_loadu_si256(x + 3)));
    const __m256 scale = _mm256_broadcast_ss(scales);
    if (per_block == 1 && format != FORMAT_NF4)
        return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(lower, upper)), scale, sum);
    const __m256 low = _mm256_cvtepi32_ps(lower), high = _mm256_cvtepi32_ps(upper);
    /* of one row it is the sum that instructions wait for: it takes one of them for a block */
    if (per_block == 1) return _mm256_fmadd_ps(_mm256_add_ps(low, high), scale, sum);
    return _mm256_fmadd_ps(high, _mm256_broadcast_ss(scales + 1), _mm256_fmadd_ps(low, scale, sum));
}

/* Whether scales are halves, which are made floats where they are needed; others are made so for many blocks at once. */
INLINE int are_halves(const Call *call) { return call->weight->scale_kind == SCALES_FLOAT16; }

static __attribute__((noinline)) void scales_of_end(const Call *call, int64_t output, int64_t chunk, float *to) {
    scales_of(call->weight, output, chunk * CHUNK, call->blocks - chunk * CHUNK, to);
}

INLINE void load_scales(const float *from, const int per_block, __m256 *to) {
    for (int i = 0; i < CHUNK * per_block / 8; i++) to[i] = _mm256_loadu_ps(from + 8 * i);
}

/* The scales of an output for a chunk, one or two for each block, from halves; of blocks beyond the end anything. */
INLINE void scales_of_chunk(const Call *call, const int per_block, int64_t output, int64_t chunk, __m256 *to) {
    const int64_t start = output * call->groups;
    const uint16_t *halves = call->weight->scales;
    const int are_of_pairs = per_block == 1 && call->weight->group_size == 2 * BLOCK;
    if (are_of_pairs && (chunk + 1) * CHUNK <= call->blocks) {
        const __m256 of_pairs = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(halves + start + chunk * CHUNK / 2)));
        to[0] = _mm256_permutevar8x32_ps(of_pairs, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
        to[1] = _mm256_permutevar8x32_ps(of_pairs, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
        return;
    }
    const int64_t first = chunk * CHUNK * per_block;
    if (call->weight->group_size <= BLOCK && first + CHUNK * per_block <= call->groups) {
        for (int i = 0; i < CHUNK * per_block / 8; i++)
            to[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(halves + start + first) + i));
        return;
    }
    float some[2 * CHUNK] = {0};
    scales_of_end(call, output, chunk, some);
    load_scales(some, per_block, to);
}

/* Adds a block of weights times those of some rows of inputs. */
INLINE void meet(const int format, const int per_block, const int num_rows, const Levels *levels, const uint8_t *codes,
                 const int16_t *digits, const float *scales, __m256 *sums) {
    __m256i weights[4];
    take_apart(format, levels, codes, weights);
    for (int m = 0; m < num_rows; m++)
        sums[m] = add_block(format, per_block, sums[m], weights, digits + m * BLOCK, scales + m * CHUNK * per_block);
}

/* Compilers compute these numbers in this order. */
#define IN_ORDER(number) __asm__ volatile("" : "+x"(number))

/* Adds a chunk of 4-bit weights times one row. Those of a block are taken apart before those of the last one are
 * multiplied: else more instructions would wait for others than the processor can hold. */
INLINE __m256 meet_one(const int format, const int per_block, const Levels *levels, const uint8_t *codes,
                       const int16_t *digits, const float *scales, __m256 sum) {
    const int bytes = bytes_of_block(format);
    __m256i weights[2][4];
    take_apart(format, levels, codes, weights[0]);
#pragma GCC unroll 16
    for (int block = 0; block < CHUNK; block++) {
        if (block % 2 == 0) fetch_ahead(codes + block * bytes);
        if (block + 1 < CHUNK) {
            take_apart(format, levels, codes + (block + 1) * bytes, weights[(block + 1) % 2]);
            for (int v = 0; v < 4; v++) IN_ORDER(weights[(block + 1) % 2][v]);
        }
        sum = add_block(format, per_block, sum, weights[block % 2], digits + block * BLOCK, scales + block * per_block);
        IN_ORDER(sum);
    }
    return sum;
}

/* Adds a chunk of an output, whose codes begin at `row`, times that of all rows of inputs. */
INLINE void meet_chunk(const Call *call, const Levels *levels, const int format, const int groups, const int num_rows,
                       const uint8_t *row, const __m256 *of_output, int64_t chunk, __m256 *sums) {
    const int per_block = groups == 2 ? 2 : 1, bytes = bytes_of_block(format), size = CHUNK * per_block;
    const int16_t *digits = call->inputs.digits + chunk_at(num_rows, chunk, 0);
    const float *scales = call->inputs.scales + chunk * num_rows * size;
    float products[ROWS_DIRECT * 2 * CHUNK] __attribute__((aligned(32)));
    if (groups) {
        for (int i = 0; i < num_rows * size / 8; i++)
            _mm256_store_ps(products + 8 * i,
                            _mm256_mul_ps(of_output[i % (size / 8)], _mm256_loadu_ps(scales + 8 * i)));
        scales = products;
    }
    const uint8_t *codes = row + chunk * CHUNK * bytes;
    const int64_t there = whole_blocks(call->weight) - chunk * CHUNK;
    if (there >= CHUNK && num_rows == 1 && format != FORMAT_INT8) {
        sums[0] = meet_one(format, per_block, levels, codes, digits, scales, sums[0]);
        return;
    }
    if (there >= CHUNK) {
        for (int block = 0; block < CHUNK; block += 2) /* a line of 4-bit weights */
            for (int at = block; at < block + 2; at++) {
                if (at == block || format == FORMAT_INT8) fetch_ahead(codes + at * bytes);
                meet(format, per_block, num_rows, levels, codes + at * bytes, digits + at * num_rows * BLOCK,
                     scales + at * per_block, sums);
            }
        return;
    }
    uint8_t copied[BLOCK];
    for (int64_t block = 0; block < call->blocks - chunk * CHUNK; block++) {
        const uint8_t *from = codes + block * bytes;
        if (format == FORMAT_INT8 && block >= there) {
            copy_last(call->weight, row, copied);
            from = copied;
        }
        meet(format, per_block, num_rows, levels, from, digits + block * num_rows * BLOCK, scales + block * per_block,
             sums);
    }
}

/* One output after the other. `groups` that have a scale in a block: 1, 2 where they are of 32, 0 where the whole row
 * has one. */
INLINE void stream(const Call *call, const int format, const int groups, const int num_rows) {
    const int per_block = groups == 2 ? 2 : 1;
    const Levels levels = call->levels;
    float *of_row = (float *)call->scratch;
    for (int64_t output = call->first; output < call->last; output++) {
        const uint8_t *row = codes_of(call->weight, output);
        __m256 sums[ROWS_STREAMED], scales[CHUNK / 4];
        for (int m = 0; m < num_rows; m++) sums[m] = _mm256_setzero_ps();
        const int is_buffered = groups && !are_halves(call);
        if (is_buffered) scales_of(call->weight, output, 0, call->blocks, of_row);
        for (int64_t chunk = 0; chunk < call->chunks; chunk++) {
            if (is_buffered) load_scales(of_row + chunk * CHUNK * per_block, per_block, scales);
            else if (groups) scales_of_chunk(call, per_block, output, chunk, scales);
            meet_chunk(call, &levels, format, groups, num_rows, row, scales, chunk, sums);
        }
        const float unit = unit_of(call, output);
        for (int m = 0; m < num_rows; m++) call->out[m * call->stride + output - call->first] = sum_of(sums[m]) * unit;
    }
}

/* A piece of several outputs, then the next one of the same. */
INLINE void direct(const Call *call, const int format, const int groups, const int num_rows) {
    const int per_block = groups == 2 ? 2 : 1;
    const int64_t chunks = call->chunks, piece = num_rows <= 4 ? 2 : 1; /* of inputs: a half of the nearest cache */
    const int64_t size = piece * CHUNK * per_block;
    const Levels levels = call->levels;
    float *of_piece = (float *)call->scratch;
    for (int64_t output = call->first; output < call->last; output += OUTPUTS_AT_ONCE) {
        const int num_outputs = (int)smaller(OUTPUTS_AT_ONCE, call->last - output);
        __m256 kept[OUTPUTS_AT_ONCE][ROWS_DIRECT];
        for (int n = 0; n < num_outputs; n++)
            for (int m = 0; m < num_rows; m++) kept[n][m] = _mm256_setzero_ps();
        for (int64_t first = 0; first < chunks; first += piece) {
            const int is_buffered = groups && !are_halves(call);
            const int64_t count = smaller(piece * CHUNK, call->blocks - first * CHUNK);
            for (int n = 0; n < num_outputs && is_buffered; n++)
                scales_of(call->weight, output + n, first * CHUNK, count, of_piece + n * size);
            for (int n = 0; n < num_outputs; n++) {
                const uint8_t *row = codes_of(call->weight, output + n);
                __m256 sums[ROWS_DIRECT], scales[CHUNK / 4];
                for (int m = 0; m < num_rows; m++) sums[m] = kept[n][m];
                for (int64_t chunk = first; chunk < smaller(first + piece, chunks); chunk++) {
                    const float *from = of_piece + n * size + (chunk - first) * CHUNK * per_block;
                    if (is_buffered) load_scales(from, per_block, scales);
                    else if (groups) scales_of_chunk(call, per_block, output + n, chunk, scales);
                    meet_chunk(call, &levels, format, groups, num_rows, row, scales, chunk, sums);
                }
                for (int m = 0; m < num_rows; m++) kept[n][m] = sums[m];
            }
        }
        for (int n = 0; n < num_outputs; n++) {
            const float unit = unit_of(call, output + n);
            for (int m = 0; m < num_rows; m++)
                call->out[m * call->stride + output + n - call->first] = sum_of(kept[n][m]) * unit;
        }
    }
}

/* The scales of an output times those of a row of inputs; `count` is a multiple of CHUNK. */
INLINE void multiply_scales(const float *of_output, const float *of_inputs, int64_t count, float *to) {
    for (int64_t i = 0; i < count; i += 8)
        _mm256_storeu_ps(to + i, _mm256_mul_ps(_mm256_loadu_ps(of_output + i), _mm256_loadu_ps(of_inputs + i)));
}

/* A part of the weight taken apart, and the sums so far of its outputs with all rows. */
typedef struct {
    __m256 sums[OUTPUTS_OF_PANEL][MOST_ROWS];
    int16_t weights[OUTPUTS_OF_PANEL * CHUNK * BLOCK]; /* those of a tile side by side, block after block */
    float scales[OUTPUTS_OF_PANEL][2 * CHUNK];         /* beyond the end of a row anything */
} Panel;

/* NF4 needs more registers for each. */
INLINE int outputs_of_tile(const int format) { return format == FORMAT_NF4 ? 2 : OUTPUTS_OF_TILE; }

INLINE int panel_at(const int format, int output, int64_t block) {
    const int most = outputs_of_tile(format);
    return ((output / most * CHUNK + (int)block) * most + output % most) * BLOCK;
}

INLINE void tile(const Call *call, Panel *panel, const int format, const int groups, int64_t row, const int num_rows,
                 int output, const int num_outputs, int64_t first, int64_t count) {
    const int per_block = groups == 2 ? 2 : 1;
    float products[ROWS_OF_TILE][OUTPUTS_OF_TILE][2 * CHUNK];
    const float *scales[ROWS_OF_TILE][OUTPUTS_OF_TILE];
    __m256 sums[ROWS_OF_TILE][OUTPUTS_OF_TILE];
    const int64_t chunk = first * call->num_rows + row * CHUNK; /* the block of inputs that is the first of all */
    const int16_t *digits = call->inputs.digits + chunk * BLOCK;
    for (int m = 0; m < num_rows; m++)
        for (int n = 0; n < num_outputs; n++) {
            const float *of_inputs = call->inputs.scales + (chunk + m * CHUNK) * per_block;
            if (groups) multiply_scales(panel->scales[output + n], of_inputs, CHUNK * per_block, products[m][n]);
            scales[m][n] = groups ? products[m][n] : of_inputs;
            sums[m][n] = first ? panel->sums[output + n][row + m] : _mm256_setzero_ps();
        }
    for (int64_t block = 0; block < count; block++) {
        __m256 lower[ROWS_OF_TILE][OUTPUTS_OF_TILE];
        __m256i parts[ROWS_OF_TILE][OUTPUTS_OF_TILE];
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            /* where lanes would grow too large, or scales differ, half a block is added at a time */
            const int is_halved = groups == 2 || format == FORMAT_NF4;
            const int is_first = v == 0 || (v == 2 && is_halved), is_last = v == 3 || (v == 1 && is_halved);
            __m256i weights[OUTPUTS_OF_TILE];
            for (int n = 0; n < num_outputs; n++) {
                const int16_t *from = panel->weights + panel_at(format, output, block) + n * BLOCK;
                weights[n] = _mm256_load_si256((const __m256i *)from + v);
                IN_REGISTER(weights[n]);
            }
            for (int m = 0; m < num_rows; m++) {
                __m256i x = _mm256_loadu_si256((const __m256i *)(digits + (block * num_rows + m) * BLOCK) + v);
                IN_REGISTER(x);
                for (int n = 0; n < num_outputs; n++) {
                    const __m256i product = _mm256_madd_epi16(weights[n], x);
                    parts[m][n] = is_first ? product : _mm256_add_epi32(parts[m][n], product);
                    IN_REGISTER(parts[m][n]);
                    if (!is_last) continue;
                    const float *scale = scales[m][n] + block * per_block + (v == 3 ? per_block - 1 : 0);
                    const __m256 part = _mm256_cvtepi32_ps(parts[m][n]);
                    if (format == FORMAT_NF4 && v == 1) lower[m][n] = part;
                    else sums[m][n] = _mm256_fmadd_ps(format == FORMAT_NF4 ? _mm256_add_ps(lower[m][n], part) : part,
                                                      _mm256_broadcast_ss(scale), sums[m][n]);
                }
            }
        }
    }
    for (int m = 0; m < num_rows; m++)
        for (int n = 0; n < num_outputs; n++) panel->sums[output + n][row + m] = sums[m][n];
}

INLINE void tiles(const Call *call, Panel *panel, const int format, const int groups, int64_t row, const int num_rows,
                  int num_outputs, int64_t first, int64_t count) {
    const int most = outputs_of_tile(format);
    int n = 0;
    for (; n + most <= num_outputs; n += most) tile(call, panel, format, groups, row, num_rows, n, most, first, count);
    if (num_outputs - n == 2) tile(call, panel, format, groups, row, num_rows, n, 2, first, count);
    if (num_outputs - n == 1) tile(call, panel, format, groups, row, num_rows, n, 1, first, count);
}

/* Outputs `output` ... output + num_outputs - 1 for all rows. */
INLINE void panel_of(const Call *call, Panel *panel, const int format, const int groups, int64_t output,
                     int num_outputs) {
    const int64_t num_rows = call->num_rows, whole = whole_blocks(call->weight);
    uint8_t copied[BLOCK];
    const Levels levels = call->levels;
    for (int64_t first = 0; first < call->blocks; first += CHUNK) {
        const int64_t count = smaller(CHUNK, call->blocks - first);
        for (int n = 0; n < num_outputs; n++) {
            const uint8_t *codes = codes_of(call->weight, output + n);
            if (groups) scales_of(call->weight, output + n, first, count, panel->scales[n]);
            for (int64_t block = 0; block < count; block++) {
                const uint8_t *from = codes + (first + block) * bytes_of_block(format);
                if (block % 2 == 0 || format == FORMAT_INT8) fetch_ahead(from);
                if (format == FORMAT_INT8 && first + block >= whole) {
                    copy_last(call->weight, codes, copied);
                    from = copied;
                }
                take_apart(format, &levels, from, (__m256i *)(panel->weights + panel_at(format, n, block)));
            }
        }
        int64_t row = 0;
        for (; row + ROWS_OF_TILE <= num_rows; row += ROWS_OF_TILE)
            tiles(call, panel, format, groups, row, ROWS_OF_TILE, num_outputs, first, count);
        if (row < num_rows) tiles(call, panel, format, groups, row, 1, num_outputs, first, count);
    }
    for (int n = 0; n < num_outputs; n++) {
        const float unit = unit_of(call, output + n);
        for (int64_t row = 0; row < num_rows; row++)
            call->out[row * call->stride + output + n - call->first] = sum_of(panel->sums[n][row]) * unit;
    }
}

INLINE void multiply_by(const Call *call, const int format, const int groups) {
    if (call->num_rows == 1) stream(call, format, groups, 1);
    else if (call->num_rows == 2) stream(call, format, groups, 2);
    else if (call->num_rows == 3) direct(call, format, groups, 3);
    else if (call->num_rows == 4) direct(call, format, groups, 4);
    else if (call->num_rows == 5) direct(call, format, groups, 5);
    else if (call->num_rows == 6) direct(call, format, groups, 6);
    else if (call->num_rows == 7) direct(call, format, groups, 7);
    else if (call->num_rows == 8) direct(call, format, groups, 8);
    else
        for (int64_t output = call->first; output < call->last; output += OUTPUTS_OF_PANEL)
            panel_of(call, (Panel *)call->scratch, format, groups, output,
                     (int)smaller(OUTPUTS_OF_PANEL, call->last - output));
}

static void multiply_int4(const Call *call) { multiply_by(call, FORMAT_INT4, 1); }
static void multiply_int4_fine(const Call *call) { multiply_by(call, FORMAT_INT4, 2); }
static void multiply_int8(const Call *call) { multiply_by(call, FORMAT_INT8, 1); }
static void multiply_int8_row(const Call *call) { multiply_by(call, FORMAT_INT8, 0); }
static void multiply_int8_fine(const Call *call) { multiply_by(call, FORMAT_INT8, 2); }
static void multiply_nf4(const Call *call) { multiply_by(call, FORMAT_NF4, 1); }

/* A row with a block that integers cannot hold, in float32. */
static void multiply_row(const Call *call, int64_t row) {
    const int64_t blocks = call->blocks, num_scales = scales_of_block(call->weight), width = call->weight->num_inputs;
    float *whole = (float *)call->scratch;
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t at = (block / CHUNK * call->num_rows + row) * CHUNK + block % CHUNK;
        const int16_t *digits = call->inputs.digits + digits_at(call->num_rows, block, row);
        const float scale = call->inputs.scales[at * num_scales];
        for (int i = 0; i < BLOCK; i++) {
            const int from = place(call->weight->format, i);
            if (block * BLOCK + from >= width) continue;
            whole[block * BLOCK + from] = scale == scale ? (float)digits[i] * scale
                                                         : call->inputs.floats[at * BLOCK + from];
        }
    }
    multiply_row_avx2(call->weight, whole, call->first, call->last, call->out + row * call->stride, whole + blocks * BLOCK);
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t scratch_room(const Weight *weight) {
    const int64_t numbers = num_chunks(weight) * CHUNK * 2;
    const int64_t of_row = num_blocks(weight) * BLOCK * (int64_t)sizeof(float) + row_avx2_room(weight);
    return larger(larger(numbers * (int64_t)sizeof(float), of_row), sizeof(Panel)); /* scales of pieces take less */
}

static int is_held_by_integers(const Call *call, int64_t row) {
    const int64_t num_scales = scales_of_block(call->weight);
    int is_held = 1;
    for (int64_t first = 0; first < call->blocks; first += CHUNK) {
        const float *scales = call->inputs.scales + (first * call->num_rows + row * CHUNK) * num_scales;
        for (int64_t i = 0; i < CHUNK * num_scales; i++) is_held &= scales[i] == scales[i];
    }
    return is_held;
}

static void multiply(const Weight *weight, const void *prepared, int64_t num_rows, int64_t first, int64_t last, float *out,
                     int64_t stride, void *scratch) {
    const Call call = {
        .weight = weight,
        .inputs = inputs_of(weight, (void *)prepared, num_rows),
        .levels = levels_of(weight),
        .unit = level_unit(weight),
        .num_rows = num_rows,
        .blocks = num_blocks(weight),
        .chunks = num_chunks(weight),
        .groups = num_groups_of(weight),
        .first = first,
        .last = last,
        .stride = stride,
        .out = out,
        .scratch = scratch,
    };
    const int is_fine = scales_of_block(weight) == 2;
    if (weight->format == FORMAT_NF4) multiply_nf4(&call);
    else if (weight->format == FORMAT_INT8 && !weight->group_size) multiply_int8_row(&call);
    else if (weight->format == FORMAT_INT8) (is_fine ? multiply_int8_fine : multiply_int8)(&call);
    else (is_fine ? multiply_int4_fine : multiply_int4)(&call);
    for (int64_t row = 0; row < num_rows; row++)
        if (!is_held_by_integers(&call, row)) multiply_row(&call, row);
}

const RowsKernel rows_kernel_avx2 = {room, scratch_room, prepare, multiply};
