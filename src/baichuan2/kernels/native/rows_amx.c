/* Products of few rows with weights in 4 and 8 bits on the matrix unit (AMX int8).
 *
 * 16 outputs at once: a tile A holds their levels of 64 inputs, taken apart into a small panel. Inputs of each 64 are
 * integers of two digits with a scale; the digits of up to eight rows are the 16 columns of a tile B. A product of tiles
 * is exact, and leaves a sum of a block for each output and digit, which is scaled and added up in float32: in the order
 * of the blocks, so that a row's results are the same in any company of three rows or more, which all come here. With groups of 32, tiles hold half a block. Levels
 * of NF4 have two digits, too, and make two tiles A.
 *
 * Tiles are not forwarded from stores: the sums of a pair of tiles are taken up only when others have been multiplied
 * since. Codes are asked for a piece of all outputs ahead.
 */
#include "rows_amx.h"
#include "tiles_amx.h"

enum {
    OUTPUTS = 16,                    /* of a tile */
    TILES_OF_PANEL = 8,              /* of a piece of the inputs; the nearest cache holds more than these */
    DEPTH = 1,                       /* pairs of tiles between the product and its scaling */
    SLOTS = DEPTH < 2 ? 2 : 4,       /* for sums of pairs, a power of two above DEPTH */
    AHEAD = 8192,                    /* bytes of codes that are asked for ahead */
    MOST_TILES = MOST_ROWS / ROWS_OF_TILE,
    TILE_BYTES = 1024,
    TILE_NUMBERS = 256,
    LINE = 64
};

/* What all outputs of a call share. */
typedef struct {
    const Weight *weight;
    Inputs inputs;
    Product product;
    const uint8_t *codes;
    int64_t num_rows, last, row_size, code_bytes; /* of a row of codes, of a block */
    int64_t pairs, pairs_of_piece, pieces, ahead; /* pieces that codes are asked for ahead */
    __m512i tables[2]; /* the bytes of the 16 levels, high and low, or the only one, four times */
    float unit;        /* of integer levels, where scales do not have it */
    int num_levels;    /* tiles of levels */
    float *out;        /* of output n and row m: n + m * stride */
    int64_t stride;
    char *panel;       /* (2 * pairs_of_piece, num_levels, TILE_BYTES) */
    int32_t *sums;     /* (SLOTS, 2, num_levels, TILE_NUMBERS) */
    float *totals;     /* (MOST_TILES, TILE_NUMBERS) */
    float *scales;     /* (room_of_scales, OUTPUTS) */
} Task;

INLINE int64_t room_of_scales(const Inputs *inputs) { return (inputs->entries + WIDTH - 1) / WIDTH * WIDTH; }

INLINE int levels_of(const Weight *weight) { return weight->format == FORMAT_NF4 ? 2 : 1; }

INLINE int64_t sums_bytes(int num_levels) { return SLOTS * 2 * num_levels * TILE_BYTES; }

static int64_t scratch_room(const Weight *weight) {
    const Inputs inputs = inputs_of(weight, NULL, 1);
    const int64_t numbers = MOST_TILES * TILE_NUMBERS + room_of_scales(&inputs) * OUTPUTS;
    return TILES_OF_PANEL * TILE_BYTES + sums_bytes(levels_of(weight)) + numbers * (int64_t)sizeof(float);
}

INLINE int blocks_of_pair(const Task *task) { return 2 / per_block(task->weight); }

static void fill_tables(const Weight *weight, Task *task) {
    float levels[16];
    uint8_t bytes[2][16];
    memcpy(levels, weight->levels, sizeof levels);
    task->unit = weight->format == FORMAT_INT4 ? 1.0f / 128 : nf4_unit(weight->levels);
    for (int i = 0; i < 16; i++) {
        const int level = (int)lrintf(levels[i] / task->unit);
        bytes[0][i] = (uint8_t)(weight->format == FORMAT_INT4 ? level : (level + 128) >> 8);
        bytes[1][i] = (uint8_t)level;
    }
    for (int i = 0; i < 2; i++) task->tables[i] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)bytes[i]));
}

static Task task_of(const Weight *weight, const void *prepared, int64_t num_rows, char *scratch) {
    Task task = {.weight = weight, .inputs = inputs_of(weight, prepared, num_rows), .product = product_of(weight),
                 .codes = weight->codes, .num_rows = num_rows, .unit = 1.0f, .num_levels = levels_of(weight)};
    task.row_size = row_bytes(&task.product);
    task.code_bytes = weight->format == FORMAT_INT8 ? BLOCK : BLOCK / 2;
    task.pairs = task.inputs.entries / 2;
    task.pairs_of_piece = TILES_OF_PANEL / 2 / task.num_levels;
    task.pieces = (task.pairs + task.pairs_of_piece - 1) / task.pairs_of_piece;
    const int64_t bytes = OUTPUTS * task.pairs_of_piece * blocks_of_pair(&task) * task.code_bytes;
    task.ahead = AHEAD > 2 * bytes ? AHEAD / bytes : 2;
    task.panel = scratch;
    task.sums = (int32_t *)(task.panel + TILES_OF_PANEL * TILE_BYTES);
    task.totals = (float *)((char *)task.sums + sums_bytes(task.num_levels));
    task.scales = task.totals + MOST_TILES * TILE_NUMBERS;
    if (weight->format != FORMAT_INT8) fill_tables(weight, &task);
    return task;
}

/* Tiles 0, 3 and 6 are levels, 1 and 4 inputs, 2, 5 and 7 sums. In every call anew, as in `configure_tiles`. */
static void configure(int64_t columns, int is_fine) {
    const int inputs = is_fine ? BLOCK / 2 : BLOCK;
    TileConfiguration wanted;
    memset(&wanted, 0, sizeof wanted);
    wanted.palette = 1;
    for (int i = 0; i < 8; i++) {
        const int is_levels = i % 3 == 0, is_inputs = i == 1 || i == 4;
        wanted.row_bytes[i] = (uint16_t)(is_levels ? inputs : columns * 4);
        wanted.rows[i] = (uint8_t)(is_inputs ? inputs / 4 : OUTPUTS);
    }
    /* gcc 12 thinks that the instruction reads eight bytes only and may drop the stores of the others */
    __asm__ volatile("" : : "r"(&wanted) : "memory");
    _tile_loadconfig(&wanted);
}

/* The levels of some blocks of 16 outputs, or of `count`, to the panel. */
INLINE void unpack(const Task *task, const int format, int64_t output, int64_t count, int64_t block, int64_t num,
                   char *panel) {
    const __m512i halves = _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4);
    const __m512i table = task->tables[0], other = task->tables[1];
    const int64_t num_levels = format == FORMAT_NF4 ? 2 : 1;
    for (int64_t r = 0; r < OUTPUTS; r++) {
        const uint8_t *from = task->codes + (output + (r < count ? r : 0)) * task->row_size + block * task->code_bytes;
        for (int64_t b = 0; b < num; b++) {
            char *to = panel + b * num_levels * TILE_BYTES + r * LINE;
            if (format == FORMAT_INT8) {
                const int64_t rest = task->weight->num_inputs - (block + b) * BLOCK;
                if (rest >= BLOCK) _mm512_store_si512(to, _mm512_loadu_si512(from + b * BLOCK));
                else _mm512_store_si512(to, _mm512_maskz_loadu_epi8(((uint64_t)1 << rest) - 1, from + b * BLOCK));
                continue;
            }
            const __m512i bytes = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(from + b * 32)));
            const __m512i places = _mm512_srlv_epi64(bytes, halves); /* low halves of bytes, then high halves */
            /* six bits of a code count; the table has its 16 bytes four times */
            _mm512_store_si512(to, _mm512_permutexvar_epi8(places, table));
            if (format == FORMAT_NF4)
                _mm512_store_si512(to + TILE_BYTES, _mm512_permutexvar_epi8(places, other));
        }
    }
}

static void unpack_piece(const Task *task, int64_t output, int64_t count, int64_t piece) {
    char *panel = task->panel;
    const int64_t most = task->pairs_of_piece * blocks_of_pair(task), first = piece * most;
    const int64_t rest = num_blocks(task->weight) - first, num = rest < most ? rest : most;
    switch (task->weight->format) {
    case FORMAT_INT4: unpack(task, FORMAT_INT4, output, count, first, num, panel); break;
    case FORMAT_INT8: unpack(task, FORMAT_INT8, output, count, first, num, panel); break;
    default: unpack(task, FORMAT_NF4, output, count, first, num, panel);
    }
}

/* Codes that are asked for ahead: `bytes` from `from` on, and from as far on in the next rows, `rows` in all. */
typedef struct {
    const uint8_t *from;
    int64_t rows, bytes, row_size;
} Ahead;

/* Those of a piece of 16 outputs, or, where the outputs have fewer pieces, of a piece of later outputs. */
static Ahead ahead_of(const Task *task, int64_t output, int64_t piece) {
    const int64_t size = task->pairs_of_piece * blocks_of_pair(task) * task->code_bytes;
    const int64_t start = piece % task->pieces * size;
    const int64_t first = output + piece / task->pieces * OUTPUTS, rows = task->last - first;
    return (Ahead){.from = task->codes + first * task->row_size + start,
                   .rows = rows < 0 ? 0 : rows < OUTPUTS ? rows : OUTPUTS,
                   .bytes = task->row_size - start < size ? task->row_size - start : size,
                   .row_size = task->row_size};
}

INLINE void fetch(const Ahead *ahead, int64_t first, int64_t last) {
    for (int64_t r = first; r < last && r < ahead->rows; r++)
        for (int64_t byte = 0; byte < ahead->bytes; byte += LINE)
            _mm_prefetch((const char *)ahead->from + r * ahead->row_size + byte, _MM_HINT_T1);
}

/* A piece of the products of 16 outputs with a tile of rows. */
typedef struct {
    const char *panel, *digits;
    const float *factors, *scales; /* of the digits, of the outputs */
    float *totals;
    int64_t pairs;
    int is_first;
    Ahead ahead;
} Piece;

/* A pair of tiles of levels with one of inputs each. */
INLINE void multiply_pair(const Task *task, const char *panel, const char *digits, const int columns,
                          const int num_levels, int32_t *sums) {
    const int64_t of_digits = columns * 4, count = TILE_NUMBERS;
    const int is_fine = per_block(task->weight) == 2;
    const char *second = panel + (is_fine ? LINE / 2 : num_levels * TILE_BYTES);
    const char *other = digits + of_digits * (is_fine ? 8 : 16);
    _tile_loadd(0, panel, 64);
    _tile_loadd(1, digits, of_digits);
    _tile_zero(2);
    _tile_dpbssd(2, 0, 1);
    _tile_loadd(3, second, 64);
    _tile_loadd(4, other, of_digits);
    _tile_zero(5);
    _tile_dpbssd(5, 3, 4);
    _tile_stored(2, sums, of_digits);
    _tile_stored(5, sums + num_levels * count, of_digits);
    if (num_levels == 2) {
        _tile_loadd(6, panel + TILE_BYTES, 64);
        _tile_zero(7);
        _tile_dpbssd(7, 6, 1);
        _tile_stored(7, sums + count, of_digits);
        _tile_loadd(6, second + TILE_BYTES, 64);
        _tile_zero(7);
        _tile_dpbssd(7, 6, 4);
        _tile_stored(7, sums + 3 * count, of_digits);
    }
}

/* Adds up a sum of 16 outputs and all columns, scaled. */
INLINE void add_up(const int32_t *sums, const int columns, const int num_levels, const float *scales,
                   const float *factors, __m512 *totals) {
    const __m512 factor = _mm512_load_ps(factors), all = columns < 16 ? _mm512_load_ps(scales) : factor;
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const int shift = columns == 8 ? 3 : columns == 4 ? 2 : 1;
#pragma GCC unroll 16
    for (int v = 0; v < columns; v++) {
        __m512i sum = _mm512_load_si512(sums + v * WIDTH);
        if (num_levels == 2)
            sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 8), _mm512_load_si512(sums + TILE_NUMBERS + v * WIDTH));
        const __m512i places = _mm512_add_epi32(_mm512_srli_epi32(lanes, shift), _mm512_set1_epi32(v * WIDTH / columns));
        const __m512 scale = columns == 16 ? _mm512_set1_ps(scales[v]) : _mm512_permutexvar_ps(places, all);
        totals[v] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale), factor, totals[v]);
    }
}

INLINE void run_piece(const Task *task, const Piece *piece, const int columns, const int num_levels) {
    const int is_fine = per_block(task->weight) == 2;
    const int64_t of_panel = (is_fine ? 1 : 2) * num_levels * TILE_BYTES, of_digits = columns * (is_fine ? BLOCK : 2 * BLOCK);
    const int64_t of_factors = is_fine ? WIDTH : 2 * WIDTH, pairs = piece->pairs;
    const int64_t rows = OUTPUTS * 2 * num_levels / TILES_OF_PANEL; /* whose codes are asked for with a pair */
    __m512 totals[16];
#pragma GCC unroll 16
    for (int v = 0; v < columns; v++)
        totals[v] = piece->is_first ? _mm512_setzero_ps() : _mm512_load_ps(piece->totals + v * WIDTH);
    for (int64_t pair = 0; pair < pairs + DEPTH; pair++) {
        if (pair < pairs) {
            multiply_pair(task, piece->panel + pair * of_panel, piece->digits + pair * of_digits, columns, num_levels,
                          task->sums + pair % SLOTS * 2 * num_levels * TILE_NUMBERS);
            fetch(&piece->ahead, pair * rows, pair + 1 < pairs ? (pair + 1) * rows : OUTPUTS);
        }
        __asm__ volatile("" ::: "memory"); /* the compiler does not see what the tiles write */
        if (pair < DEPTH) continue;
        const int64_t done = pair - DEPTH;
        const int32_t *sums = task->sums + done % SLOTS * 2 * num_levels * TILE_NUMBERS;
        const float *scales = piece->scales + done * 2 * OUTPUTS, *factors = piece->factors + done * of_factors;
        add_up(sums, columns, num_levels, scales, factors, totals);
        add_up(sums + num_levels * TILE_NUMBERS, columns, num_levels, scales + OUTPUTS, factors + of_factors - WIDTH, totals);
    }
#pragma GCC unroll 16
    for (int v = 0; v < columns; v++) _mm512_store_ps(piece->totals + v * WIDTH, totals[v]);
}

typedef void (*RunPiece)(const Task *task, const Piece *piece);

#define RUN_PIECE(columns, num_levels)                                                     \
    static void run_##columns##_##num_levels(const Task *task, const Piece *piece) {       \
        run_piece(task, piece, columns, num_levels);                                       \
    }
RUN_PIECE(2, 1)
RUN_PIECE(4, 1)
RUN_PIECE(8, 1)
RUN_PIECE(16, 1)
RUN_PIECE(2, 2)
RUN_PIECE(4, 2)
RUN_PIECE(8, 2)
RUN_PIECE(16, 2)

static RunPiece run_of(int64_t rows, int num_levels) {
    static const RunPiece all[2][4] = {{run_2_1, run_4_1, run_8_1, run_16_1}, {run_2_2, run_4_2, run_8_2, run_16_2}};
    return all[num_levels - 1][rows == 1 ? 0 : rows == 2 ? 1 : rows == 4 ? 2 : 3];
}

/* The scales of 16 outputs, side by side for each entry. */
static void fill_scales_of(const Task *task, int64_t output, int64_t count) {
    static const int width_of_kind[] = {2, 4, 1};
    const int64_t groups = num_groups(&task->product);
    const int64_t ahead = OUTPUTS * groups * width_of_kind[task->weight->scale_kind];
    for (int64_t entry = 0; entry < room_of_scales(&task->inputs); entry += WIDTH) {
        __m512 scales[OUTPUTS];
        for (int64_t r = 0; r < OUTPUTS; r++)
            scales[r] = scales_of_entries(&task->product, groups, output + (r < count ? r : 0), entry, ahead);
        transpose(scales);
        for (int i = 0; i < WIDTH; i++) _mm512_store_ps(task->scales + (entry + i) * OUTPUTS, scales[i]);
    }
}

/* What 16 outputs, or `count`, of the rows of a tile add up to. */
static void finish(const Task *task, int64_t output, int64_t count, int64_t tile) {
    const float *totals = task->totals + tile * TILE_NUMBERS;
    const int64_t rows = task->inputs.rows, columns = columns_of(rows), first = tile * rows;
    float *out = task->out + first * task->stride + output;
    if (columns < WIDTH) {
        for (int64_t m = 0; m < rows && first + m < task->num_rows; m++)
            for (int64_t r = 0; r < count; r++)
                out[m * task->stride + r] = (totals[r * columns + m] + totals[r * columns + rows + m]) * task->unit;
        return;
    }
    __m512 lines[16];
    for (int i = 0; i < 16; i++) lines[i] = _mm512_load_ps(totals + i * WIDTH);
    transpose(lines);
    for (int64_t m = 0; m < ROWS_OF_TILE && first + m < task->num_rows; m++) {
        const __m512 sum = _mm512_mul_ps(_mm512_add_ps(lines[m], lines[ROWS_OF_TILE + m]), _mm512_set1_ps(task->unit));
        _mm512_mask_storeu_ps(out + m * task->stride, first_of(count), sum);
    }
}

/* 16 outputs, or as many as are left. */
static void multiply_outputs(const Task *task, int64_t output, RunPiece run) {
    const int64_t rest = task->last - output, count = rest < OUTPUTS ? rest : OUTPUTS, tiles = task->inputs.tiles;
    fill_scales_of(task, output, count);
    for (int64_t piece = 0; piece < task->pieces; piece++) {
        const int64_t first = piece * task->pairs_of_piece, left = task->pairs - first;
        unpack_piece(task, output, count, piece);
        __asm__ volatile("" ::: "memory"); /* nor what they read */
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t at = tile * task->inputs.blocks + first * blocks_of_pair(task);
            Piece here = {.panel = task->panel,
                          .digits = task->inputs.digits + at * bytes_of_block(&task->inputs),
                          .factors = task->inputs.factors + at * WIDTH,
                          .scales = task->scales + first * 2 * OUTPUTS,
                          .totals = task->totals + tile * TILE_NUMBERS,
                          .pairs = left < task->pairs_of_piece ? left : task->pairs_of_piece,
                          .is_first = piece == 0};
            if (tile == 0) here.ahead = ahead_of(task, output, piece + task->ahead);
            run(task, &here);
        }
    }
    for (int64_t tile = 0; tile < tiles; tile++) finish(task, output, count, tile);
}

static int is_special(const Inputs *inputs, int64_t row) {
    int found = 0;
    for (int64_t i = 0; i < inputs->entries; i++) {
        const float scale = inputs->scales[row * inputs->entries + i];
        found |= scale != scale;
    }
    return found;
}

static void multiply(const Weight *weight, const void *prepared, int64_t num_rows, int64_t first, int64_t last,
                     float *out, int64_t stride, void *scratch) {
    Task task = task_of(weight, prepared, num_rows, scratch);
    const Inputs *inputs = &task.inputs;
    task.out = (float *)((uintptr_t)out - (uintptr_t)first * sizeof *out); /* never dereferenced before `first` */
    task.stride = stride;
    task.last = last;
    configure(columns_of(inputs->rows), per_block(weight) == 2);
    for (int64_t piece = 0; piece < task.ahead; piece++) {
        const Ahead ahead = ahead_of(&task, first, piece);
        fetch(&ahead, 0, OUTPUTS);
    }
    for (int64_t output = first; output < last; output += OUTPUTS)
        multiply_outputs(&task, output, run_of(inputs->rows, task.num_levels));
    _tile_release();
    for (int64_t row = 0; row < num_rows; row++) {
        if (!is_special(inputs, row)) continue;
        for (int64_t output = first; output < last; output++)
            task.out[row * stride + output] += special_sum(weight, output, inputs->scales + row * inputs->entries,
                                                           inputs->floats + row * inputs->blocks * BLOCK);
    }
}

const RowsKernel rows_kernel_amx = {room_amx, scratch_room, prepare_amx, multiply};
