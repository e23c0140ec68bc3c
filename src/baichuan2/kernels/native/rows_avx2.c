/* Products of few rows with weights in 4 and 8 bits, for AVX2, FMA and F16C.
 *
 * Inputs are 16-bit integers with a scale for each block of 64, levels of weights are 16-bit integers too: the sum of a
 * block is exact, and takes a multiplication for each 16 weights. A few rows meet the weight where it is taken apart, in
 * registers, while the next of it comes from memory. More rows take it from a panel of the cache, in tiles of 3 rows and
 * 2 outputs. Either way a sum adds the same numbers in the same order.
 */
#include "rows_avx2.h"

enum { DIGIT = 32767 }; /* an input's greatest; with levels of 15 bits, lanes hold sums of 4 products */

/* Else compilers load a number again for each use, and put sums into an order that needs more registers than there are. */
#define IN_REGISTER(number) __asm__("" : "+x"(number))

/* Chunks of an input row follow those of other rows: rows of a power of two would share few places of the cache. */
enum { CHUNK = 16 }; /* blocks */
enum { ROWS_DIRECT = 8 }; /* up to so many rows meet a weight in the registers in which it was taken apart */

typedef struct {
    int16_t *digits; /* (chunks, M, CHUNK, BLOCK) in the order of `place` */
    float *scales;   /* (chunks, M, CHUNK, 1, or 2 for groups of 32: twice the same); NaN: the block is in `floats` */
    float *floats;   /* (chunks, M, CHUNK, BLOCK): blocks that integers cannot hold, in the order of the inputs */
} Inputs;

/* Scales of a block of a weight: two for groups of 32. */
static inline int scales_of_block(const Weight *weight) { return weight->group_size == 32 ? 2 : 1; }

static int64_t num_chunks(const Weight *weight) { return (num_blocks(weight) + CHUNK - 1) / CHUNK; }

static Inputs inputs_of(const Weight *weight, void *prepared, int64_t num_rows) {
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
            prepare_block(inputs + row * width + (rest ? start : 0), rest, places, to.digits + at * BLOCK, scales,
                          to.floats + at * BLOCK);
            scales[num_scales - 1] = scales[0];
        }
}

typedef struct {
    __m256i low, high; /* the bytes of the 16 levels as integers, twice */
} Levels;

/* What a unit of the integer levels counts for, without the scale of the group. */
static float level_unit(const Weight *weight) {
    return weight->format == FORMAT_NF4 ? nf4_unit(weight->levels) : 1.0f / 128;
}

static Levels levels_of(const Weight *weight) {
    uint8_t low[16] = {0}, high[16] = {0};
    const float unit = level_unit(weight);
    for (int i = 0; i < 16 && weight->format != FORMAT_INT8; i++) {
        const int level = (int)lrintf(weight->levels[i] / unit);
        low[i] = (uint8_t)level;
        high[i] = (uint8_t)(level >> 8);
    }
    return (Levels){_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                    _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)high))};
}

/* 32 signed bytes as integers: the even ones, as products with 1 and 0, which leaves the units of shifts free; the odd ones. */
INLINE void widen(__m256i bytes, __m256i *to) {
    to[0] = _mm256_maddubs_epi16(_mm256_set1_epi16(1), bytes);
    to[1] = _mm256_srai_epi16(bytes, 8);
}

/* 64 weights as integers, in the order of `place`. */
INLINE void take_apart(const int format, const Levels *levels, const uint8_t *codes, __m256i *to) {
    const __m256i bytes = _mm256_loadu_si256((const __m256i *)codes);
    if (format == FORMAT_INT8) {
        widen(bytes, to);
        widen(_mm256_loadu_si256((const __m256i *)(codes + 32)), to + 2);
        return;
    }
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i lower = _mm256_and_si256(bytes, mask), upper = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    if (format == FORMAT_INT4) {
        widen(_mm256_shuffle_epi8(levels->low, lower), to);
        widen(_mm256_shuffle_epi8(levels->low, upper), to + 2);
        return;
    }
    const __m256i first[2] = {_mm256_shuffle_epi8(levels->low, upper), _mm256_shuffle_epi8(levels->high, upper)};
    const __m256i second[2] = {_mm256_shuffle_epi8(levels->low, lower), _mm256_shuffle_epi8(levels->high, lower)};
    to[0] = _mm256_unpacklo_epi8(first[0], first[1]);
    to[1] = _mm256_unpackhi_epi8(first[0], first[1]);
    to[2] = _mm256_unpacklo_epi8(second[0], second[1]);
    to[3] = _mm256_unpackhi_epi8(second[0], second[1]);
}

INLINE int bytes_of_block(int format) { return format == FORMAT_INT8 ? BLOCK : BLOCK / 2; }

static const uint8_t *codes_of(const Weight *weight, int64_t output) {
    const int64_t blocks = num_blocks(weight);
    return (const uint8_t *)weight->codes + output * (weight->format == FORMAT_INT8 ? weight->num_inputs : blocks * (BLOCK / 2));
}

/* Blocks whose codes are all there: the last of int8 may be short, and is taken from a copy. */
static int64_t whole_blocks(const Weight *weight) {
    return weight->format == FORMAT_INT8 ? weight->num_inputs / BLOCK : num_blocks(weight);
}

static void copy_last(const Weight *weight, const uint8_t *codes, uint8_t *to) {
    const int64_t whole = weight->num_inputs / BLOCK * BLOCK;
    memset(to, 0, BLOCK);
    memcpy(to, codes + whole, (size_t)(weight->num_inputs - whole));
}

typedef struct {
    const Weight *weight;
    Inputs inputs;
    Levels levels;
    float unit;
    int64_t num_rows, blocks, first, last, stride;
    float *out; /* output n of row m at m * stride + n - first */
    char *scratch;
} Call;

static float scale_of(const Weight *weight, int64_t index) {
    uint16_t half;
    if (weight->scale_kind == SCALES_FLOAT16) {
        memcpy(&half, (const char *)weight->scales + 2 * index, sizeof half);
        return _cvtsh_ss(half);
    }
    if (weight->scale_kind == SCALES_FLOAT32) {
        float scale;
        memcpy(&scale, (const char *)weight->scales + 4 * index, sizeof scale);
        return scale;
    }
    const uint8_t code = ((const uint8_t *)weight->scales)[index];
    return weight->nested_levels[code] * weight->nested_scales[index / 256] + weight->offset;
}

/* `count` scales from `index` on, eight at a time as long as these are all there. */
static void scales_from(const Weight *weight, int64_t index, int64_t count, float *to) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        __m256 scales;
        const char *from = (const char *)weight->scales;
        if (weight->scale_kind == SCALES_FLOAT16)
            scales = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 2 * (index + i))));
        else if (weight->scale_kind == SCALES_FLOAT32) scales = _mm256_loadu_ps((const float *)(from + 4 * (index + i)));
        else {
            if ((index + i) / 256 != (index + i + 7) / 256) break;
            const __m256i codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(from + index + i)));
            scales = _mm256_add_ps(_mm256_mul_ps(_mm256_i32gather_ps(weight->nested_levels, codes, 4),
                                                 _mm256_set1_ps(weight->nested_scales[(index + i) / 256])),
                                   _mm256_set1_ps(weight->offset));
        }
        _mm256_storeu_ps(to + i, scales);
    }
    for (; i < count; i++) to[i] = scale_of(weight, index + i);
}

static inline int64_t num_groups_of(const Weight *weight) {
    return weight->group_size ? (weight->num_inputs + weight->group_size - 1) / weight->group_size : 1;
}

/* The scales of blocks first ... first + count - 1 of an output: one for each block, or two for groups of 32; none where
 * the whole row has one, which its sum is multiplied by. */
static void scales_of(const Weight *weight, int64_t output, int64_t first, int64_t count, float *to) {
    const int64_t groups = num_groups_of(weight), row = output * groups;
    if (weight->group_size == 32) {
        const int64_t rest = groups - 2 * first;
        scales_from(weight, row + 2 * first, smaller(2 * count, rest), to);
        if (rest < 2 * count) to[rest] = 0;
    } else if (weight->group_size == BLOCK) scales_from(weight, row + first, count, to);
    else
        for (int64_t i = 0; i < count; i++) to[i] = scale_of(weight, row + (first + i) / 2);
}

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
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(lower), scale, sum);
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(upper), per_block == 2 ? _mm256_broadcast_ss(scales + 1) : scale, sum);
}

/* The scales of an output times those of a row of inputs; `count` is a multiple of CHUNK. */
INLINE void multiply_scales(const float *of_output, const float *of_inputs, int64_t count, float *to) {
    for (int64_t i = 0; i < count; i += 8)
        _mm256_storeu_ps(to + i, _mm256_mul_ps(_mm256_loadu_ps(of_output + i), _mm256_loadu_ps(of_inputs + i)));
}

/* Adds a block of weights times those of some rows of inputs, which lie `size` blocks apart. */
INLINE void meet(const int format, const int per_block, const int num_rows, const Levels *levels, const uint8_t *codes,
                 const int16_t *digits, const float *scales, int64_t size, __m256 *sums) {
    __m256i weights[4];
    take_apart(format, levels, codes, weights);
    for (int m = 0; m < num_rows; m++)
        sums[m] = add_block(format, per_block, sums[m], weights, digits + m * size * BLOCK, scales + m * size * per_block);
}

/* `groups` that have a scale in a block: 1, 2 where they are of 32, 0 where the whole row has one. */
INLINE void direct(const Call *call, const int format, const int groups, const int num_rows) {
    const int64_t blocks = call->blocks, chunks = num_chunks(call->weight), whole = whole_blocks(call->weight);
    const int per_block = groups == 2 ? 2 : 1, bytes = bytes_of_block(format);
    const Levels levels = call->levels;
    /* chunks of one row follow one another: it is one of any length */
    const int64_t size = num_rows == 1 ? chunks * CHUNK : CHUNK;
    float *of_output = (float *)call->scratch, *products = of_output + chunks * CHUNK * per_block;
    for (int64_t output = call->first; output < call->last; output++) {
        const uint8_t *codes = codes_of(call->weight, output);
        if (groups) scales_of(call->weight, output, 0, blocks, of_output);
        __m256 sums[ROWS_DIRECT];
        for (int m = 0; m < num_rows; m++) sums[m] = _mm256_setzero_ps();
        for (int64_t first = 0; first < blocks; first += size) {
            const int64_t count = smaller(size, whole - first);
            const int16_t *digits = call->inputs.digits + first * num_rows * BLOCK;
            const float *of_inputs = call->inputs.scales + first * num_rows * per_block;
            for (int m = 0; groups && m < num_rows; m++)
                multiply_scales(of_output + first * per_block, of_inputs + m * size * per_block, size * per_block,
                                products + m * size * per_block);
            const float *scales = groups ? products : of_inputs;
            int64_t block = 0;
            for (; block + 2 <= count; block += 2) /* a line of 4-bit weights */
                for (int64_t at = block; at < block + 2; at++) {
                    if (at == block || format == FORMAT_INT8) fetch_ahead(codes + (first + at) * bytes);
                    meet(format, per_block, num_rows, &levels, codes + (first + at) * bytes, digits + at * BLOCK,
                         scales + at * per_block, size, sums);
                }
            if (block < count)
                meet(format, per_block, num_rows, &levels, codes + (first + block) * bytes, digits + block * BLOCK,
                     scales + block * per_block, size, sums);
            if (format == FORMAT_INT8 && whole < smaller(first + size, blocks)) {
                uint8_t copied[BLOCK];
                copy_last(call->weight, codes, copied);
                meet(format, per_block, num_rows, &levels, copied, digits + (whole - first) * BLOCK,
                     scales + (whole - first) * per_block, size, sums);
            }
        }
        const float unit = unit_of(call, output);
        for (int m = 0; m < num_rows; m++) call->out[m * call->stride + output - call->first] = sum_of(sums[m]) * unit;
    }
}

/* A part of the weight taken apart, and the sums so far of its outputs with all rows. */
typedef struct {
    __m256 sums[PANEL_OUTPUTS][MOST_ROWS];
    int16_t weights[PANEL_OUTPUTS][CHUNK][BLOCK];
    float scales[PANEL_OUTPUTS][2 * CHUNK]; /* beyond the end of a row anything */
} Panel;

INLINE void tile(const Call *call, Panel *panel, const int format, const int groups, int64_t row, const int num_rows,
                 int output, const int num_outputs, int64_t first, int64_t count) {
    const int per_block = groups == 2 ? 2 : 1;
    float products[TILE_ROWS][TILE_OUTPUTS][2 * CHUNK];
    const float *scales[TILE_ROWS][TILE_OUTPUTS];
    __m256 sums[TILE_ROWS][TILE_OUTPUTS];
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
        __m256i parts[TILE_ROWS][TILE_OUTPUTS];
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            /* where lanes would grow too large, or scales differ, half a block is added at a time */
            const int is_halved = groups == 2 || format == FORMAT_NF4;
            const int is_first = v == 0 || (v == 2 && is_halved), is_last = v == 3 || (v == 1 && is_halved);
            __m256i weights[TILE_OUTPUTS];
            for (int n = 0; n < num_outputs; n++) {
                weights[n] = _mm256_load_si256((const __m256i *)panel->weights[output + n][block] + v);
                IN_REGISTER(weights[n]);
            }
            for (int m = 0; m < num_rows; m++) {
                __m256i x = _mm256_loadu_si256((const __m256i *)(digits + (m * CHUNK + block) * BLOCK) + v);
                IN_REGISTER(x);
                for (int n = 0; n < num_outputs; n++) {
                    const __m256i product = _mm256_madd_epi16(weights[n], x);
                    parts[m][n] = is_first ? product : _mm256_add_epi32(parts[m][n], product);
                    IN_REGISTER(parts[m][n]);
                    if (!is_last) continue;
                    const float *scale = scales[m][n] + block * per_block + (v == 3 ? per_block - 1 : 0);
                    sums[m][n] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(parts[m][n]), _mm256_broadcast_ss(scale), sums[m][n]);
                }
            }
        }
    }
    for (int m = 0; m < num_rows; m++)
        for (int n = 0; n < num_outputs; n++) panel->sums[output + n][row + m] = sums[m][n];
}

INLINE void tiles(const Call *call, Panel *panel, const int format, const int groups, int64_t row, const int num_rows,
                  int num_outputs, int64_t first, int64_t count) {
    int n = 0;
    for (; n + TILE_OUTPUTS <= num_outputs; n += TILE_OUTPUTS)
        tile(call, panel, format, groups, row, num_rows, n, TILE_OUTPUTS, first, count);
    if (n < num_outputs) tile(call, panel, format, groups, row, num_rows, n, 1, first, count);
}

/* Outputs `output` ... output + num_outputs - 1 for all rows. */
INLINE void panel_of(const Call *call, Panel *panel, const int format, const int groups, int64_t output, int num_outputs) {
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
                take_apart(format, &levels, from, (__m256i *)panel->weights[n][block]);
            }
        }
        int64_t row = 0;
        for (; row + TILE_ROWS <= num_rows; row += TILE_ROWS)
            tiles(call, panel, format, groups, row, TILE_ROWS, num_outputs, first, count);
        if (num_rows - row == 2) tiles(call, panel, format, groups, row, 2, num_outputs, first, count);
        if (num_rows - row == 1) tiles(call, panel, format, groups, row, 1, num_outputs, first, count);
    }
    for (int n = 0; n < num_outputs; n++) {
        const float unit = unit_of(call, output + n);
        for (int64_t row = 0; row < num_rows; row++)
            call->out[row * call->stride + output + n - call->first] = sum_of(panel->sums[n][row]) * unit;
    }
}

INLINE void multiply_by(const Call *call, const int format, const int groups) {
    if (call->num_rows == 1) direct(call, format, groups, 1);
    else if (call->num_rows == 2) direct(call, format, groups, 2);
    else if (call->num_rows == 3) direct(call, format, groups, 3);
    else if (call->num_rows == 4) direct(call, format, groups, 4);
    else if (call->num_rows == 5) direct(call, format, groups, 5);
    else if (call->num_rows == 6) direct(call, format, groups, 6);
    else if (call->num_rows == 7) direct(call, format, groups, 7);
    else if (call->num_rows == 8) direct(call, format, groups, 8);
    else
        for (int64_t output = call->first; output < call->last; output += PANEL_OUTPUTS)
            panel_of(call, (Panel *)call->scratch, format, groups, output,
                     (int)smaller(PANEL_OUTPUTS, call->last - output));
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
        const float scale = call->inputs.scales[at * num_scales];
        for (int i = 0; i < BLOCK; i++) {
            const int from = place(call->weight->format, i);
            if (block * BLOCK + from >= width) continue;
            whole[block * BLOCK + from] = scale == scale ? (float)call->inputs.digits[at * BLOCK + i] * scale
                                                         : call->inputs.floats[at * BLOCK + from];
        }
    }
    multiply_row_avx2(call->weight, whole, call->first, call->last, call->out + row * call->stride, whole + blocks * BLOCK);
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t scratch_room(const Weight *weight) {
    const int64_t numbers = (num_chunks(weight) + ROWS_DIRECT) * CHUNK * scales_of_block(weight);
    const int64_t of_row = num_blocks(weight) * BLOCK * (int64_t)sizeof(float) + row_avx2_room(weight);
    return larger(larger(2 * numbers * (int64_t)sizeof(float), of_row), sizeof(Panel));
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
