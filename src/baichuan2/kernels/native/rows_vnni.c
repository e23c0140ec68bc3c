/* Products of few rows with weights in 4, 8 and 16 bits, for AVX-512 with VNNI (F, BW, VL); rows_vbmi.c compiles this
 * file once more for processors that look up 64 bytes in one instruction.
 *
 * One row of the weight after another is read in one stream, which memory gives fastest, and taken apart in registers
 * for up to four rows of inputs; a sum adds the same numbers in the same order for any number of them. Inputs of each
 * 64 are integers with a scale. int4 multiplies bytes: a level and 128 makes a byte without sign, an input is two
 * digits of a byte, and sums start at minus what the 128 brings into them. int8 and NF4 multiply 16-bit integers. 64
 * products leave 16 exact sums of 25 or 32 bits, which are scaled and added up in float32. Weights in 16 bits are
 * multiplied in float32.
 */
#include "rows_avx512.h"

enum {
    GREATEST = 32767,      /* of 16 bits */
    GREATEST_OF_TWO = 127 * 256 + 127, /* of two digits with signs */
    TOGETHER = 4,          /* rows of inputs */
    CHAINS = 2,            /* sums of a row that do not wait for each other */
    CHAINS_OF_16_BITS = 4,
    SHIFT = 128,           /* makes a level of int4 a byte without sign */
    SCALES_AHEAD = 1024    /* bytes */
};

/* Prepared inputs. Scales, also `shifts`, stand for each block, or twice for a block with groups of 32. */
typedef struct {
    char *digits;  /* (M, blocks): 64 words, or for int4 64 high digits, 64 low ones and 16 starts of sums */
    float *scales; /* (M, entries); NaN: the block is in `floats`, and zeros elsewhere */
    float *shifts; /* (M, entries): what of SHIFT is left in the sums, for int4 */
    float *floats; /* (M, blocks, BLOCK): blocks that integers cannot hold; all of them for weights in 16 bits */
    int64_t blocks, entries;
} Inputs;

INLINE int bytes_of_block(int format) { return format == FORMAT_INT4 ? 192 : 128; }

static Inputs inputs_of(const Weight *weight, const void *prepared, int64_t num_rows) {
    const int64_t blocks = num_blocks(weight), entries = (blocks * per_block(weight) + WIDTH - 1) / WIDTH * WIDTH;
    Inputs inputs = {.blocks = blocks, .entries = entries};
    if (is_16_bits(weight)) {
        inputs.floats = (float *)prepared;
        return inputs;
    }
    inputs.digits = (char *)prepared;
    inputs.scales = (float *)(inputs.digits + num_rows * blocks * bytes_of_block(weight->format));
    inputs.shifts = inputs.scales + num_rows * entries;
    inputs.floats = inputs.shifts + num_rows * entries;
    return inputs;
}

static int64_t room(const Weight *weight, int64_t num_rows) {
    const Inputs inputs = inputs_of(weight, NULL, num_rows);
    const int64_t floats = num_rows * inputs.blocks * BLOCK * (int64_t)sizeof(float);
    if (is_16_bits(weight)) return floats;
    const int64_t digits = inputs.blocks * bytes_of_block(weight->format);
    return floats + num_rows * (digits + 2 * inputs.entries * (int64_t)sizeof(float));
}

static int64_t scratch_room(const Weight *weight) {
    return TOGETHER * inputs_of(weight, NULL, 1).entries * (int64_t)sizeof(float);
}

/* Which input of a block of NF4 meets word `position`: low halves of bytes come first, and are the later inputs; within
 * each 16 of these codes, the first vector of words has the first 8. */
static int place_of_nf4(int position) {
    const int word = position % 32, code = word / 8 * 16 + position / 32 * 8 + word % 8;
    return 2 * (code % 32) + (code < 32);
}

/* 64 inputs as 16-bit integers in the order of the weight's. */
static void put_words(const Weight *weight, const __m512i *numbers, char *digits) {
    __m512i words[2];
    for (int i = 0; i < 2; i++) {
        const __m512i low = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(numbers[2 * i]));
        words[i] = _mm512_inserti64x4(low, _mm512_cvtepi32_epi16(numbers[2 * i + 1]), 1);
    }
    for (int i = 0; i < 2; i++) {
        __m512i target = words[i];
        if (weight->format == FORMAT_NF4) {
            uint16_t places[32];
            for (int j = 0; j < 32; j++) places[j] = (uint16_t)place_of_nf4(32 * i + j);
            target = _mm512_permutex2var_epi16(words[0], _mm512_loadu_si512(places), words[1]);
        }
        _mm512_store_si512(digits + 64 * i, target);
    }
}

/* 64 inputs as digits: 256 times the first 64 bytes and the second 64 bytes. Products of four inputs meet in a sum,
 * into which SHIFT brings itself times 256 first digits and times the second ones. Sums start at minus that, divided
 * by 256, as the first digits' are multiplied with it before the second ones' are added. In those that are returned
 * SHIFT itself is left, the remainder of the division. */
static __mmask16 put_bytes(const __m512i *numbers, char *digits) {
    for (int i = 0; i < 4; i++) {
        const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(numbers[i], _mm512_set1_epi32(128)), 8);
        _mm_store_si128((__m128i *)(digits + 16 * i), _mm512_cvtepi32_epi8(high));
        _mm_store_si128((__m128i *)(digits + 64 + 16 * i), _mm512_cvtepi32_epi8(numbers[i]));
    }
    const __m512i ones = _mm512_set1_epi8(1), zero = _mm512_setzero_si512();
    const __m512i high = _mm512_dpbusd_epi32(zero, ones, _mm512_load_si512(digits));
    const __m512i low = _mm512_dpbusd_epi32(zero, ones, _mm512_load_si512(digits + 64));
    const __m512i excess = _mm512_add_epi32(_mm512_slli_epi32(high, 7), _mm512_srai_epi32(low, 1));
    _mm512_store_si512(digits + 128, _mm512_sub_epi32(zero, excess));
    return _mm512_test_epi32_mask(low, _mm512_set1_epi32(1));
}

/* Block `block` of row `row`, of which `rest` inputs lie at `from`. */
static void prepare_block(const Weight *weight, const Inputs *to, int64_t row, int64_t block, const float *from,
                          int64_t rest) {
    const int64_t at = row * to->blocks + block;
    const int count = per_block(weight);
    float *floats = to->floats + at * BLOCK;
    const int64_t entry = row * to->entries + block * count;
    float *scales = to->scales + entry, *shifts = to->shifts + entry;
    __m512 values[4];
    __m512i most = _mm512_setzero_si512(); /* magnitudes compare like integers, NaN above all */
    for (int i = 0; i < 4; i++) {
        values[i] = _mm512_maskz_loadu_ps(rest > WIDTH * i ? first_of(rest - WIDTH * i) : 0, from + WIDTH * i);
        const __m512i bits = _mm512_and_si512(_mm512_castps_si512(values[i]), _mm512_set1_epi32(0x7fffffff));
        most = _mm512_max_epu32(most, bits);
    }
    const float greatest = float_of_bits(_mm512_reduce_max_epu32(most));
    const int is_special = greatest != 0 && !(greatest >= 0x1p-64f && greatest <= 0x1p80f);
    if (is_special)
        for (int i = 0; i < 4; i++) _mm512_store_ps(floats + WIDTH * i, values[i]);
    const float limit = weight->format == FORMAT_INT4 ? GREATEST_OF_TWO : GREATEST;
    const float scale = greatest / limit;
    const __m512 factor = _mm512_set1_ps(greatest == 0 ? 0.0f : limit / greatest);
    __m512i numbers[4];
    for (int i = 0; i < 4; i++)
        numbers[i] = is_special ? _mm512_setzero_si512() : _mm512_cvtps_epi32(_mm512_mul_ps(values[i], factor));
    char *digits = to->digits + at * bytes_of_block(weight->format);
    __mmask16 left = 0;
    if (weight->format == FORMAT_INT4) left = put_bytes(numbers, digits);
    else put_words(weight, numbers, digits);
    for (int i = 0; i < count; i++) {
        const int sums = count == 1 ? left : i == 0 ? left & 0xff : left >> 8;
        scales[i] = is_special ? NAN : scale;
        shifts[i] = is_special ? 0.0f : scale * (float)(SHIFT * __builtin_popcount(sums));
    }
}

/* Blocks of all rows are shared among the parts; what rows of scales are filled up with counts as blocks. */
static void prepare(const Weight *weight, const float *inputs, int64_t num_rows, void *prepared, int part, int parts) {
    const Inputs to = inputs_of(weight, prepared, num_rows);
    const int64_t count = is_16_bits(weight) ? to.blocks : to.entries / per_block(weight), width = weight->num_inputs;
    for (int64_t at = share(num_rows * count, part, parts); at < share(num_rows * count, part + 1, parts); at++) {
        const int64_t row = at / count, block = at % count, rest = width - block * BLOCK;
        const float *from = inputs + row * width + block * BLOCK;
        if (is_16_bits(weight)) {
            for (int i = 0; i < BLOCK; i++) to.floats[at * BLOCK + i] = i < rest ? from[i] : 0.0f;
        } else if (block < to.blocks) prepare_block(weight, &to, row, block, from, rest);
        else
            for (int i = 0; i < per_block(weight); i++) {
                const int64_t place = row * to.entries + block * per_block(weight) + i;
                to.scales[place] = to.shifts[place] = 0;
            }
    }
}

/* What all outputs of a call share. */
typedef struct {
    const Weight *weight;
    Inputs inputs;
    Product scales;    /* only what tells the scales of groups */
    int64_t row_size;  /* of codes, in bytes */
    int64_t num_groups;
    __m512i tables[2]; /* the bytes of the 16 levels, low and high, four times */
    float unit;        /* of integer levels, where scales do not have it */
    float *out;        /* of output n and row m: n + m * stride */
    int64_t stride;
    float *scratch;
} Task;

static Task task_of(const Weight *weight, const void *prepared, int64_t num_rows, void *scratch) {
    Task task = {.weight = weight, .inputs = inputs_of(weight, prepared, num_rows), .unit = 1.0f, .scratch = scratch};
    task.scales = product_of(weight);
    task.row_size = is_16_bits(weight) ? 2 * weight->num_inputs : row_bytes(&task.scales);
    task.num_groups = num_groups(&task.scales);
    if (weight->format != FORMAT_INT4 && weight->format != FORMAT_NF4) return task;
    float levels[16];
    memcpy(levels, weight->levels, sizeof levels);
    task.unit = weight->format == FORMAT_INT4 ? 1.0f / 128 : nf4_unit(weight->levels);
    uint8_t bytes[2][16];
    for (int i = 0; i < 16; i++) {
        const int level = (int)lrintf(levels[i] / task.unit) + (weight->format == FORMAT_INT4 ? SHIFT : 0);
        bytes[0][i] = (uint8_t)level;
        bytes[1][i] = (uint8_t)(level >> 8);
    }
    for (int i = 0; i < 2; i++) task.tables[i] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)bytes[i]));
    return task;
}

/* Lines are asked for early, for both levels of cache, over the ends of rows. */
INLINE void fetch_ahead(const uint8_t *codes) {
    _mm_prefetch((const char *)codes + 4096, _MM_HINT_T1);
    _mm_prefetch((const char *)codes + 1024, _MM_HINT_T0);
}

/* Scales of an output times those of the inputs to the scratch; `shifts` get what of SHIFT is left in the sums. */
INLINE void combine_scales(const Task *task, int64_t output, int64_t row, const int num_rows, const int format,
                           __m512 *shifts) {
    const int64_t entries = task->inputs.entries;
    const float *scales = task->inputs.scales + row * entries, *left = task->inputs.shifts + row * entries;
    for (int m = 0; m < num_rows; m++) shifts[m] = _mm512_setzero_ps();
    for (int64_t entry = 0; entry < entries; entry += WIDTH) {
        const __m512 factors = scales_of_entries(&task->scales, task->num_groups, output, entry, SCALES_AHEAD);
#pragma GCC unroll 4
        for (int m = 0; m < num_rows; m++) {
            const __m512 here = _mm512_load_ps(scales + m * entries + entry);
            const __mmask16 is_number = _mm512_cmp_ps_mask(here, here, _CMP_ORD_Q);
            _mm512_store_ps(task->scratch + m * entries + entry, _mm512_maskz_mul_ps(is_number, factors, here));
            if (format == FORMAT_INT4)
                shifts[m] = _mm512_fmadd_ps(factors, _mm512_load_ps(left + m * entries + entry), shifts[m]);
        }
    }
}

/* The bytes at the places that the low halves of `codes` tell. */
INLINE __m512i look_up(__m512i codes, __m512i table) {
#ifdef __AVX512VBMI__
    return _mm512_permutexvar_epi8(codes, table); /* six bits of a code count; the table has its 16 bytes four times */
#else
    return _mm512_shuffle_epi8(table, _mm512_and_si512(codes, _mm512_set1_epi8(15)));
#endif
}

/* 64 weights of an output as bytes in levels[0], or as words in both. `rest` of int8 are there. */
INLINE void take_apart(const Task *task, const int format, const uint8_t *codes, int64_t rest, __m512i *levels) {
    if (format == FORMAT_INT8) {
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            const uint8_t *from = codes + 32 * i;
            if (rest >= BLOCK) levels[i] = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)from));
            else {
                const int64_t here = rest - 32 * i;
                const __mmask32 mask = here >= 32 ? 0xffffffff : here > 0 ? (1u << here) - 1 : 0;
                levels[i] = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, from));
            }
        }
        return;
    }
    const __m512i halves = _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4);
    const __m512i bytes = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)codes));
    const __m512i places = _mm512_srlv_epi64(bytes, halves); /* low halves of bytes, then high halves */
    levels[0] = look_up(places, task->tables[0]);
    if (format == FORMAT_INT4) return;
    const __m512i high = look_up(places, task->tables[1]);
    levels[1] = _mm512_unpackhi_epi8(levels[0], high);
    levels[0] = _mm512_unpacklo_epi8(levels[0], high);
}

INLINE __m512i load(const char *digits) { return _mm512_load_si512(digits); }

/* `sum` and the products of a block, scaled. */
INLINE __m512 add_block(__m512 sum, const int format, const int is_fine, const __m512i *levels, const char *digits,
                        const float *scales) {
    if (format == FORMAT_INT4) {
        const __m512i high = _mm512_dpbusd_epi32(load(digits + 128), levels[0], load(digits));
        const __m512i dots = _mm512_dpbusd_epi32(_mm512_slli_epi32(high, 8), levels[0], load(digits + 64));
        __m512 factors = _mm512_set1_ps(scales[0]);
        if (is_fine) factors = _mm512_mask_mov_ps(factors, 0xff00, _mm512_set1_ps(scales[1]));
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), factors, sum);
    }
    const __m512i zero = _mm512_setzero_si512(), dots = _mm512_dpwssd_epi32(zero, levels[0], load(digits));
    if (!is_fine) {
        const __m512i all = _mm512_dpwssd_epi32(dots, levels[1], load(digits + 64));
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(all), _mm512_set1_ps(scales[0]), sum);
    }
    const __m512i others = _mm512_dpwssd_epi32(zero, levels[1], load(digits + 64));
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), _mm512_set1_ps(scales[0]), sum);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(others), _mm512_set1_ps(scales[1]), sum);
}

/* Output `output` of rows `row` ... `row` + num_rows - 1. */
INLINE void output_of(const Task *task, int64_t output, int64_t row, const int num_rows, const int format,
                      const int is_fine) {
    const int64_t blocks = task->inputs.blocks, entries = task->inputs.entries, num_inputs = task->weight->num_inputs;
    const int64_t whole = format == FORMAT_INT8 ? num_inputs / BLOCK : blocks;
    const int size = format == FORMAT_INT8 ? BLOCK : BLOCK / 2, count = is_fine ? 2 : 1;
    const uint8_t *codes = (const uint8_t *)task->weight->codes + output * task->row_size;
    const int step = bytes_of_block(format);
    const char *digits = task->inputs.digits + row * blocks * step;
    const float *scales = task->scratch;
    __m512 sums[CHAINS][TOGETHER], shifts[TOGETHER];
    __m512i levels[2];
    combine_scales(task, output, row, num_rows, format, shifts);
#pragma GCC unroll 2
    for (int c = 0; c < CHAINS; c++)
#pragma GCC unroll 4
        for (int m = 0; m < num_rows; m++) sums[c][m] = _mm512_setzero_ps();
    int64_t block = 0;
    for (; block + CHAINS <= whole; block += CHAINS) {
        fetch_ahead(codes + block * size);
        if (format == FORMAT_INT8) fetch_ahead(codes + block * size + 64);
#pragma GCC unroll 2
        for (int c = 0; c < CHAINS; c++) {
            take_apart(task, format, codes + (block + c) * size, BLOCK, levels);
#pragma GCC unroll 4
            for (int m = 0; m < num_rows; m++)
                sums[c][m] = add_block(sums[c][m], format, is_fine, levels, digits + (m * blocks + block + c) * step,
                                       scales + m * entries + (block + c) * count);
        }
    }
    for (; block < blocks; block++) { /* one, or two of which the second of int8 is short */
        take_apart(task, format, codes + block * size, num_inputs - block * BLOCK, levels);
#pragma GCC unroll 4
        for (int m = 0; m < num_rows; m++)
            sums[0][m] = add_block(sums[0][m], format, is_fine, levels, digits + (m * blocks + block) * step,
                                   scales + m * entries + block * count);
    }
#pragma GCC unroll 4
    for (int m = 0; m < num_rows; m++) {
        const __m512 sum = _mm512_sub_ps(_mm512_add_ps(sums[0][m], sums[1][m]), shifts[m]);
        task->out[(row + m) * task->stride + output] = _mm512_reduce_add_ps(sum) * task->unit;
    }
}

/* The same for a weight of 16-bit numbers. */
INLINE void output_of_16_bits(const Task *task, int64_t output, int64_t row, const int num_rows, const int number) {
    const int64_t blocks = task->inputs.blocks, num_inputs = task->weight->num_inputs, whole = num_inputs / BLOCK;
    const uint8_t *numbers = (const uint8_t *)task->weight->codes + output * task->row_size;
    const float *x = task->inputs.floats + row * blocks * BLOCK;
    __m512 sums[CHAINS_OF_16_BITS][TOGETHER];
#pragma GCC unroll 4
    for (int c = 0; c < CHAINS_OF_16_BITS; c++)
#pragma GCC unroll 4
        for (int m = 0; m < num_rows; m++) sums[c][m] = _mm512_setzero_ps();
    for (int64_t block = 0; block < blocks; block++) {
        const uint8_t *from = numbers + block * 2 * BLOCK;
        fetch_ahead(from);
        fetch_ahead(from + 64);
#pragma GCC unroll 4
        for (int c = 0; c < CHAINS_OF_16_BITS; c++) {
            __m256i bits;
            if (block < whole) bits = _mm256_loadu_si256((const __m256i *)(from + 2 * WIDTH * c));
            else {
                const int64_t rest = num_inputs - block * BLOCK - WIDTH * c;
                bits = _mm256_maskz_loadu_epi16(first_of(rest > 0 ? rest : 0), from + 2 * WIDTH * c);
            }
            const __m512 weights = widened(bits, number);
#pragma GCC unroll 4
            for (int m = 0; m < num_rows; m++) {
                const __m512 inputs = _mm512_load_ps(x + (m * blocks + block) * BLOCK + WIDTH * c);
                sums[c][m] = _mm512_fmadd_ps(weights, inputs, sums[c][m]);
            }
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < num_rows; m++) {
        const __m512 low = _mm512_add_ps(sums[0][m], sums[1][m]), high = _mm512_add_ps(sums[2][m], sums[3][m]);
        task->out[(row + m) * task->stride + output] = _mm512_reduce_add_ps(_mm512_add_ps(low, high));
    }
}

typedef void (*OutputOf)(const Task *task, int64_t output, int64_t row);

#define OUTPUT_OF(name, rows, call) \
    static void name##_##rows(const Task *task, int64_t output, int64_t row) { call; }
#define OUTPUTS_OF(name, function, ...)                                                                           \
    OUTPUT_OF(name, 1, function(task, output, row, 1, __VA_ARGS__))                                               \
    OUTPUT_OF(name, 2, function(task, output, row, 2, __VA_ARGS__))                                               \
    OUTPUT_OF(name, 3, function(task, output, row, 3, __VA_ARGS__))                                               \
    OUTPUT_OF(name, 4, function(task, output, row, 4, __VA_ARGS__))                                               \
    static const OutputOf name[TOGETHER] = {name##_1, name##_2, name##_3, name##_4};
OUTPUTS_OF(of_int4, output_of, FORMAT_INT4, 0)
OUTPUTS_OF(of_int4_fine, output_of, FORMAT_INT4, 1)
OUTPUTS_OF(of_int8, output_of, FORMAT_INT8, 0)
OUTPUTS_OF(of_int8_fine, output_of, FORMAT_INT8, 1)
OUTPUTS_OF(of_nf4, output_of, FORMAT_NF4, 0)
OUTPUTS_OF(of_bfloat16, output_of_16_bits, NUMBER_BFLOAT16)
OUTPUTS_OF(of_float16, output_of_16_bits, NUMBER_FLOAT16)

static const OutputOf *functions_of(const Weight *weight) {
    const int is_fine = weight->group_size == 32;
    switch (weight->format) {
    case FORMAT_INT4: return is_fine ? of_int4_fine : of_int4;
    case FORMAT_INT8: return is_fine ? of_int8_fine : of_int8;
    case FORMAT_NF4: return of_nf4;
    case FORMAT_BFLOAT16: return of_bfloat16;
    default: return of_float16;
    }
}

static int is_special(const Inputs *inputs, int64_t row) {
    __mmask16 found = 0;
    for (int64_t entry = 0; entry < inputs->entries; entry += WIDTH) {
        const __m512 scales = _mm512_load_ps(inputs->scales + row * inputs->entries + entry);
        found |= _mm512_cmp_ps_mask(scales, scales, _CMP_UNORD_Q);
    }
    return found != 0;
}

static void multiply(const Weight *weight, const void *prepared, int64_t num_rows, int64_t first, int64_t last,
                     float *out, int64_t stride, void *scratch) {
    Task task = task_of(weight, prepared, num_rows, scratch);
    const OutputOf *functions = functions_of(weight);
    task.out = (float *)((uintptr_t)out - (uintptr_t)first * sizeof *out); /* never dereferenced before `first` */
    task.stride = stride;
    /* more rows meet outputs that are in the cache by then */
    for (int64_t start = first; start < last; start += SHARE_OF_OUTPUTS) {
        const int64_t stop = last - start < SHARE_OF_OUTPUTS ? last : start + SHARE_OF_OUTPUTS;
        for (int64_t row = 0; row < num_rows; row += TOGETHER) {
            const int64_t count = num_rows - row < TOGETHER ? num_rows - row : TOGETHER;
            for (int64_t output = start; output < stop; output++) functions[count - 1](&task, output, row);
        }
    }
    for (int64_t row = 0; row < num_rows && !is_16_bits(weight); row++) {
        if (!is_special(&task.inputs, row)) continue;
        for (int64_t output = first; output < last; output++)
            task.out[row * stride + output] +=
                special_sum(weight, output, task.inputs.scales + row * task.inputs.entries,
                            task.inputs.floats + row * task.inputs.blocks * BLOCK);
    }
}

#ifdef __AVX512VBMI__
const RowsKernel rows_kernel_vbmi = {room, scratch_room, prepare, multiply};
#else
const RowsKernel rows_kernel_vnni = {room, scratch_room, prepare, multiply};
#endif
