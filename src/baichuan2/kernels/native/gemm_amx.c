/* Weights in few bits, or in bfloat16, times many rows of bfloat16 inputs on the matrix unit: for prompts.
 *
 * Each weight is computed in bfloat16 once for a chunk of rows, scale and all: round(level * scale), the very numbers
 * that the plain way of quantization/linear.py multiplies with. Sums are taken in float32, over a whole panel of inputs
 * in the tiles. A chunk's panel of inputs stays in the second-level cache, where the weights of 32 outputs join it;
 * those of the next 32 outputs are computed by the vector units while the matrix unit multiplies.
 *
 * Tiles A are 16 outputs by 32 inputs; tiles B, laid out beforehand, 16 pairs of inputs by 16 rows; so sums are outputs
 * by rows, and are turned when they leave. Tiles are not forwarded from stores: what is stored is read a block later.
 *
 * Every tile is loaded from the second-level cache, at about 47 bytes a cycle, which allows for 73 % of the unit's peak
 * (a Xeon with AMX, 2026-11). Asking for tiles ahead, or short panels whose weights stay in the first-level cache, made
 * that slower there.
 */
#include "avx512.h"
#include "tiles_amx.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { BLOCK = 64, SIDE = 32, TILE = 512, STEP_WORDS = 2 * TILE, TILE_FLOATS = 256, SUMS = 4 * TILE_FLOATS };
enum {
    CHUNK = 256,     /* rows that share one computation of the weights */
    ROOM = 1 << 20,  /* bytes of the second-level cache for a panel of their inputs */
    LONGEST = 64,    /* blocks in a panel; their weights take 8 KiB each, with those of the next outputs */
    RUN = 4,         /* blocks of 32 outputs that a thread takes at a time: one that is held up takes fewer */
};

typedef struct {
    const Product *product;
    int64_t blocks;              /* of 64 inputs */
    int64_t panel;               /* blocks in a panel, an even number: so groups of 128 inputs are whole */
    int64_t first_row, num_rows; /* of the chunk */
    const uint16_t *inputs;      /* (blocks of 32 rows, steps of 32 inputs, 2 tiles) */
} Chunk;

/* The weights of up to 32 outputs in a panel, computed bit by bit: 16 outputs and 64 inputs at a time. */
typedef struct {
    const Chunk *chunk;
    int64_t output, first, last; /* blocks first ... last - 1 */
    int64_t tile, block;         /* what comes next */
    uint16_t *target;            /* (steps, 2 tiles) */
    float *scales;               /* (16, room) of the present tile's outputs */
    int64_t room;
} Unpacking;

/* --- inputs */

/* 16 vectors of 32-bit numbers, rows and columns exchanged. */
static inline __attribute__((always_inline)) void transpose(__m512 *v) {
    __m512 t[16], u[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            const __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + 2 + j]);
            u[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            u[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512 a = _mm512_shuffle_f32x4(u[j], u[4 + j], 0x88), b = _mm512_shuffle_f32x4(u[j], u[4 + j], 0xdd);
        const __m512 c = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0x88);
        const __m512 d = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0xdd);
        v[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        v[4 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
        v[8 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
        v[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

/* The words of two vectors, 64 inputs, that half `half` of a block's weights meets, in the order of `unpack_4_bits`. */
static __m512i words_of(int format, int half) {
    uint16_t words[32];
    for (int i = 0; i < 32; i++) words[i] = (uint16_t)(format == FORMAT_NF4 ? 2 * i + !half : i + 32 * half);
    return _mm512_loadu_si512(words);
}

/* Tiles first ... last - 1 of the chunk's inputs, counted through (tiles of 16 rows, blocks); zeros beyond rows and
 * inputs. */
static void lay_out(const Chunk *chunk, uint16_t *target, int64_t first, int64_t last) {
    const Product *product = chunk->product;
    const int64_t num_inputs = product->num_inputs, steps = 2 * chunk->blocks;
    const __m512i words[2] = {words_of(product->format, 0), words_of(product->format, 1)};
    for (int64_t at = first; at < last; at++) {
        const int64_t tile = at / chunk->blocks, block = at % chunk->blocks, rest = num_inputs - block * BLOCK;
        const __mmask32 low = rest >= 32 ? 0xffffffff : (1u << rest) - 1;
        const __mmask32 high = rest >= 64 ? 0xffffffff : rest <= 32 ? 0 : (1u << (rest - 32)) - 1;
        __m512 halves[2][16];
        for (int r = 0; r < 16; r++) {
            const int64_t row = tile * 16 + r;
            const int is_there = row < chunk->num_rows;
            const int64_t from_row = chunk->first_row + (is_there ? row : 0);
            const uint16_t *from = (const uint16_t *)product->inputs + from_row * num_inputs;
            const __m512i a = _mm512_maskz_loadu_epi16(is_there ? low : 0, from + block * BLOCK);
            const __m512i b = _mm512_maskz_loadu_epi16(is_there ? high : 0, from + block * BLOCK + (high ? 32 : 0));
            for (int half = 0; half < 2; half++)
                halves[half][r] = _mm512_castsi512_ps(_mm512_permutex2var_epi16(a, words[half], b));
        }
        for (int half = 0; half < 2; half++) {
            uint16_t *to = target + (tile / 2 * steps + 2 * block + half) * STEP_WORDS + tile % 2 * TILE;
            transpose(halves[half]);
            for (int r = 0; r < 16; r++) _mm512_store_si512(to + r * 32, _mm512_castps_si512(halves[half][r]));
        }
    }
}

/* --- weights */

/* How many scales a row has in `blocks` blocks. */
static int64_t scales_of(const Product *product, int64_t blocks) {
    if (product->group_size == 0) return 1;
    return (blocks * BLOCK + product->group_size - 1) / product->group_size;
}

static void read_scales(const Unpacking *task, int64_t output, float *scales) {
    const Product *product = task->chunk->product;
    const int64_t groups = num_groups(product), before = product->group_size ? scales_of(product, task->first) : 0;
    int64_t count = scales_of(product, task->last - task->first);
    if (count > groups - before) count = groups - before;
    for (int64_t i = 0; i < task->room; i += 16) {
        const int64_t rest = count - i;
        const __mmask16 mask = rest >= 16 ? 0xffff : rest <= 0 ? 0 : (__mmask16)((1 << rest) - 1);
        _mm512_storeu_ps(scales + i, sixteen_scales(product, output * groups + before + (mask ? i : 0), mask));
    }
}

/* Bytes of a row's codes in a block. */
static inline int64_t block_bytes(const Product *product) {
    return product->format == FORMAT_BFLOAT16 ? 2 * BLOCK : product->format == FORMAT_INT8 ? BLOCK : BLOCK / 2;
}

static inline __m512i pair(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/* 64 weights of 4 bits: a group has 16 values at most, so the levels are scaled, and looked up as bfloat16. */
static inline __attribute__((always_inline)) void unpack_4_bits(const uint8_t *codes, __m512 levels, const float *scale,
                                                                const int is_fine, uint16_t *to) {
    const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)codes));
    const __m512 first = _mm512_mul_ps(levels, _mm512_set1_ps(scale[0]));
    __m512i low = words, high = _mm512_srli_epi16(words, 4), table;
    if (is_fine) { /* a group for each half */
        table = pair(first, _mm512_mul_ps(levels, _mm512_set1_ps(scale[1])));
        low = _mm512_and_si512(low, _mm512_set1_epi16(15));
        high = _mm512_or_si512(high, _mm512_set1_epi16(16));
    } else
        table = _mm512_broadcast_i64x4((__m256i)_mm512_cvtneps_pbh(first));
    _mm512_store_si512(to, _mm512_permutexvar_epi16(low, table));
    _mm512_store_si512(to + STEP_WORDS, _mm512_permutexvar_epi16(high, table));
}

/* 64 weights of 8 bits, or the `rest` that there are, zeros beyond. */
static inline __attribute__((always_inline)) void unpack_8_bits(const uint8_t *codes, int64_t rest, const float *scale,
                                                                const int is_fine, uint16_t *to) {
    __m512 values[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const int64_t left = rest - 16 * i;
        const __mmask16 mask = left >= 16 ? 0xffff : left <= 0 ? 0 : (__mmask16)((1 << left) - 1);
        const __m128i eight = _mm_maskz_loadu_epi8(mask, codes + (mask ? 16 * i : 0));
        values[i] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(eight));
        values[i] = _mm512_mul_ps(values[i], _mm512_set1_ps(scale[is_fine && i > 1]));
    }
    _mm512_store_si512(to, pair(values[0], values[1]));
    _mm512_store_si512(to + STEP_WORDS, pair(values[2], values[3]));
}

/* 64 numbers, or the `rest` that there are, zeros beyond. */
static inline __attribute__((always_inline)) void copy_16_bits(const uint8_t *numbers, int64_t rest, uint16_t *to) {
    const __mmask32 low = rest >= 32 ? 0xffffffff : (1u << rest) - 1;
    const __mmask32 high = rest >= 64 ? 0xffffffff : rest <= 32 ? 0 : (1u << (rest - 32)) - 1;
    _mm512_store_si512(to, _mm512_maskz_loadu_epi16(low, numbers));
    _mm512_store_si512(to + STEP_WORDS, _mm512_maskz_loadu_epi16(high, numbers + (high ? 64 : 0)));
}

/* 16 outputs' weights of one block. Outputs beyond the last are that one again: nobody reads the sums. */
static void unpack_block(const Unpacking *task, const float *scale) {
    const Product *product = task->chunk->product;
    const int64_t bytes = row_bytes(product), final = product->num_outputs - 1, first = task->output + 16 * task->tile;
    const uint8_t *codes = product->codes + task->block * block_bytes(product);
    uint16_t *to = task->target + 2 * (task->block - task->first) * STEP_WORDS + task->tile * TILE;
    const int is_fine = product->group_size == 32;
    if (product->format == FORMAT_INT8 || product->format == FORMAT_BFLOAT16) {
        const int64_t rest = product->num_inputs - task->block * BLOCK;
        for (int r = 0; r < 16; r++) {
            const uint8_t *row = codes + (first + r < final ? first + r : final) * bytes;
            if (product->format == FORMAT_BFLOAT16) copy_16_bits(row, rest, to + r * 32);
            else unpack_8_bits(row, rest, scale + r * task->room, is_fine, to + r * 32);
        }
        return;
    }
    const __m512 levels = _mm512_loadu_ps(product->levels);
    if (is_fine)
        for (int r = 0; r < 16; r++) {
            const uint8_t *row = codes + (first + r < final ? first + r : final) * bytes;
            unpack_4_bits(row, levels, scale + r * task->room, 1, to + r * 32);
        }
    else
        for (int r = 0; r < 16; r++) {
            const uint8_t *row = codes + (first + r < final ? first + r : final) * bytes;
            unpack_4_bits(row, levels, scale + r * task->room, 0, to + r * 32);
        }
}

/* Computes the next weights; 0 where all are there. */
static __attribute__((noinline)) int advance(Unpacking *task) {
    const Product *product = task->chunk->product;
    if (task->tile == 2) return 0;
    if (task->block == task->first && product->format != FORMAT_BFLOAT16)
        for (int r = 0; r < 16; r++) {
            const int64_t output = task->output + 16 * task->tile + r, final = product->num_outputs - 1;
            read_scales(task, output < final ? output : final, task->scales + r * task->room);
        }
    const int64_t block = task->block - task->first, size = product->group_size;
    unpack_block(task, task->scales + (size == 0 ? 0 : size == 128 ? block / 2 : block * BLOCK / size));
    if (++task->block == task->last) {
        task->block = task->first;
        task->tile++;
    }
    return 1;
}

/* --- products */

/* What a product of tiles does besides. */
typedef struct {
    Unpacking *task;            /* weights to compute, a part every so many steps */
    int64_t every, due;
    const char *codes;          /* of later outputs, to be asked for: a row's bytes `at` ... `end` - 1, then the next */
    int64_t at, begin, end, stride, lines;
    const char *sums;           /* the next sums, or NULL */
} Besides;

static inline __attribute__((always_inline)) void ask_ahead(Besides *besides, int64_t step) {
    for (int64_t i = 0; i < besides->lines; i++) {
        _mm_prefetch(besides->codes + besides->at, _MM_HINT_T1);
        besides->at += 64;
        if (besides->at >= besides->end) {
            besides->at = besides->begin;
            besides->codes += besides->stride;
        }
    }
    if (besides->sums && step < SUMS / 16) _mm_prefetch(besides->sums + 64 * step, _MM_HINT_T1);
    if (--besides->due <= 0) {
        besides->due = besides->every;
        advance(besides->task);
    }
}

/* 32 outputs times 32 rows over `steps` times 32 inputs: `sums` (2 tiles of outputs, 2 of rows) from `before` or 0. */
static void multiply_tiles(const uint16_t *weights, const uint16_t *inputs, int64_t steps, const float *before,
                                  float *sums, Besides *besides) {
    __asm__ volatile("" ::: "memory"); /* nor what they read */
    if (before) {
        _tile_loadd(0, before, 64);
        _tile_loadd(1, before + TILE_FLOATS, 64);
        _tile_loadd(2, before + 2 * TILE_FLOATS, 64);
        _tile_loadd(3, before + 3 * TILE_FLOATS, 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t step = 0; step < steps; step++, weights += STEP_WORDS, inputs += STEP_WORDS) {
        _tile_loadd(4, weights, 64);
        _tile_loadd(6, inputs, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, inputs + TILE, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, weights + TILE, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        ask_ahead(besides, step);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + TILE_FLOATS, 64);
    _tile_stored(2, sums + 2 * TILE_FLOATS, 64);
    _tile_stored(3, sums + 3 * TILE_FLOATS, 64);
    __asm__ volatile("" ::: "memory"); /* the compiler does not see what the tiles write */
}

/* Rounds sums of 32 outputs and 32 rows, and writes those that there are, from block `rows` of the chunk's rows. */
static void put_out(const Chunk *chunk, const float *sums, int64_t rows, int64_t output) {
    const Product *product = chunk->product;
    const int64_t num_outputs = product->num_outputs, rest = num_outputs - output;
    const __mmask32 mask = rest >= SIDE ? 0xffffffff : (1u << rest) - 1;
    uint16_t order[32];
    for (int i = 0; i < 16; i++) order[2 * i] = (uint16_t)i, order[2 * i + 1] = (uint16_t)(16 + i);
    const __m512i together = _mm512_loadu_si512(order);
    for (int half = 0; half < 2; half++) {
        const int64_t first = rows * SIDE + half * 16;
        const float *from = sums + half * TILE_FLOATS;
        __m512 v[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) { /* two outputs in each number of 32 bits */
            const float *two = from + i / 8 * 2 * TILE_FLOATS + i % 8 * 32;
            const __m512i words = pair(_mm512_loadu_ps(two), _mm512_loadu_ps(two + 16));
            v[i] = _mm512_castsi512_ps(_mm512_permutexvar_epi16(together, words));
        }
        transpose(v);
        uint16_t *to = (uint16_t *)product->outputs + (chunk->first_row + first) * num_outputs + output;
        for (int r = 0; r < 16 && first + r < chunk->num_rows; r++)
            _mm512_mask_storeu_epi16(to + r * num_outputs, mask, _mm512_castps_si512(v[r]));
    }
}

/* What a thread needs beside the inputs. */
typedef struct {
    uint16_t *weights[2];       /* of these outputs in the present panel, and of the next ones */
    float *scales;
    float *sums;                /* of all threads, (blocks of 32 outputs, blocks of 32 rows, SUMS), between panels */
    float *results[2];          /* of the present block and the last one */
} Scratch;

static Unpacking weights_of(const Chunk *chunk, const Scratch *scratch, int64_t block, int64_t first, int index) {
    const int64_t last = first + chunk->panel < chunk->blocks ? first + chunk->panel : chunk->blocks;
    const int64_t room = (scales_of(chunk->product, chunk->panel) + 15) / 16 * 16;
    return (Unpacking){chunk, block * SIDE, first, last, 0, first, scratch->weights[index], scratch->scales, room};
}

/* What to do beside the products of `rows` blocks of rows over `steps`: weights `next`, and codes `later`. */
static Besides besides_of(const Chunk *chunk, Unpacking *next, int64_t later, int64_t rows, int64_t steps) {
    const Product *product = chunk->product;
    const int64_t parts = 2 * (next->last - next->first), bytes = block_bytes(product);
    Besides besides = {next, rows * steps / (parts + 1), 0, NULL, 0, 0, 0, row_bytes(product), 0, NULL};
    if (besides.every < 1) besides.every = 1;
    besides.due = besides.every;
    /* the processor finds out by itself what comes next in long rows; asking would hold up the loads of tiles */
    if (later < 0 || product->format == FORMAT_BFLOAT16) return besides;
    besides.codes = (const char *)product->codes + later * SIDE * besides.stride;
    besides.at = besides.begin = next->first * bytes;
    besides.end = next->last * bytes;
    besides.lines = (SIDE * ((besides.end - besides.begin + 63) / 64) + rows * steps - 1) / (rows * steps);
    return besides;
}

/* The block of outputs to compute after `block`, -1 at first: the next in the run, or in one that nobody took; or -1. */
static int64_t take_block(atomic_llong *taken, int64_t block, int64_t blocks) {
    if ((block + 1) % RUN && block + 1 < blocks) return block + 1;
    if (block >= 0 && block + 1 >= blocks) return -1;
    const int64_t first = atomic_fetch_add(taken, 1) * RUN;
    return first < blocks ? first : -1;
}

/* Adds up the panel from block `begin` on for all rows of the chunk and the outputs that the thread takes. */
static void multiply_panel(const Chunk *chunk, const Scratch *scratch, int64_t begin, atomic_llong *taken) {
    const int64_t row_blocks = (chunk->num_rows + SIDE - 1) / SIDE, all_steps = 2 * chunk->blocks;
    const int64_t output_blocks = (chunk->product->num_outputs + SIDE - 1) / SIDE;
    const int64_t end = begin + chunk->panel < chunk->blocks ? begin + chunk->panel : chunk->blocks;
    const int64_t steps = 2 * (end - begin);
    int64_t waiting = -1, waiting_block = 0, block = take_block(taken, -1, output_blocks), follows;
    int turn = 0, result = 0;
    if (block < 0) return;
    Unpacking task = weights_of(chunk, scratch, block, begin, turn);
    while (advance(&task)) {}
    for (; block >= 0; block = follows, turn = !turn) {
        follows = take_block(taken, block, output_blocks);
        Unpacking next = weights_of(chunk, scratch, follows < 0 ? 0 : follows, begin, !turn);
        if (follows < 0) next.tile = 2;
        /* the first of a run that nobody took yet is only likely to be this thread's */
        const int64_t later = follows < 0 ? -1 : (follows + 1) % RUN ? follows + 1 : atomic_load(taken) * RUN;
        Besides besides = besides_of(chunk, &next, later < output_blocks ? later : -1, row_blocks, steps);
        for (int64_t rows = 0; rows < row_blocks; rows++) {
            float *kept = scratch->sums + (block * row_blocks + rows) * SUMS;
            float *to = end < chunk->blocks ? kept : scratch->results[result];
            const int is_more = rows + 1 < row_blocks || block + 1 < output_blocks;
            besides.sums = begin > 0 && is_more ? (const char *)(kept + SUMS) : NULL;
            const uint16_t *inputs = chunk->inputs + (rows * all_steps + 2 * begin) * STEP_WORDS;
            multiply_tiles(scratch->weights[turn], inputs, steps, begin > 0 ? kept : NULL, to, &besides);
            if (waiting >= 0) put_out(chunk, scratch->results[!result], waiting, waiting_block * SIDE);
            waiting = -1;
            if (end < chunk->blocks) continue;
            waiting = rows, waiting_block = block, result = !result;
        }
        while (advance(&next)) {}
    }
    if (waiting >= 0) put_out(chunk, scratch->results[!result], waiting, waiting_block * SIDE);
}

/* --- the whole product */

static int64_t rounded_up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

int multiply_many_amx(const Product *product, int threads) {
    const int64_t blocks = (product->num_inputs + BLOCK - 1) / BLOCK;
    const int64_t output_blocks = (product->num_outputs + SIDE - 1) / SIDE;
    const int64_t row_blocks = (product->num_rows + SIDE - 1) / SIDE, most = CHUNK / SIDE;
    const int64_t chunks = (row_blocks + most - 1) / most, of_chunk = (row_blocks + chunks - 1) / chunks;
    /* panels of nearly the same length, as long as the inputs stay where they should */
    const int64_t longest = smaller(ROOM / (of_chunk * SIDE * BLOCK * 2), LONGEST);
    const int64_t panels = (blocks + longest - 1) / longest, panel = rounded_up((blocks + panels - 1) / panels, 2);
    const size_t of_inputs = (size_t)of_chunk * 2 * blocks * STEP_WORDS * 2;
    const size_t of_weights = (size_t)2 * panel * STEP_WORDS * 2;
    const size_t of_scales = (size_t)16 * rounded_up(scales_of(product, panel), 16) * 4;
    const size_t of_sums = panel < blocks ? (size_t)output_blocks * of_chunk * SUMS * 4 : 0;
    const size_t of_thread = 2 * of_weights + of_scales + 2 * SUMS * 4;
    char *memory = aligned_alloc(64, of_inputs + of_sums + (size_t)threads * of_thread);
    if (!memory) return -1;
    for (int64_t first = 0; first < row_blocks; first += of_chunk) {
        const int64_t num_rows = smaller(of_chunk * SIDE, product->num_rows - first * SIDE);
        const Chunk chunk = {product, blocks, panel, first * SIDE, num_rows, (uint16_t *)memory};
        const int64_t parts = (num_rows + SIDE - 1) / SIDE * 2 * blocks;
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(threads)
#endif
        for (int thread = 0; thread < threads; thread++)
            lay_out(&chunk, (uint16_t *)memory, parts * thread / threads, parts * (thread + 1) / threads);
        for (int64_t begin = 0; begin < blocks; begin += panel) {
            atomic_llong taken = 0;
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(threads)
#endif
            for (int thread = 0; thread < threads; thread++) {
                char *own = memory + of_inputs + of_sums + (size_t)thread * of_thread, *results = own + 2 * of_weights;
                const Scratch scratch = {{(uint16_t *)own, (uint16_t *)(own + of_weights)},
                                         (float *)(results + 2 * SUMS * 4),
                                         (float *)(memory + of_inputs),
                                         {(float *)results, (float *)results + SUMS}};
                configure_tiles();
                multiply_panel(&chunk, &scratch, begin, &taken);
                _tile_release();
            }
        }
    }
    free(memory);
    return 0;
}
