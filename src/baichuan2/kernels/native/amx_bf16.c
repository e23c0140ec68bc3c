/* 4-bit weights times several rows of bfloat16 inputs on the matrix unit: exact products, sums in float32.
 *
 * 16 outputs at once. Their levels of a block of 64 inputs are written to a small panel, two tiles A of 16 outputs and
 * 32 inputs; the inputs were laid out as tiles B beforehand, 16 rows each. The sums of a group leave the matrix unit and
 * are added up with their scale. Tiles are not forwarded from stores, so the three stages work on consecutive blocks.
 */
#include "avx512.h"
#include "tiles_amx.h"

enum { BLOCK = 64, OUTPUTS = 16, ROWS = 16, PANELS = 4, TILE_BYTES = 1024, TILE_FLOATS = 256, MOST_TILES = 4 };

/* The input within a block at word `word` of half `half` of the levels, in the order of `unpack`. */
static int input_of(int format, int half, int word) {
    return format == FORMAT_NF4 ? 2 * word + !half : word + 32 * half;
}

/* Inputs of `num_rows` rows from the first on as tiles: (tiles of 16 rows, blocks, 2 halves, 16 pairs, 16 rows, 2). */
void prepare_amx_bf16(const Product *product, void *prepared) {
    const int64_t blocks = (product->num_inputs + BLOCK - 1) / BLOCK;
    const int64_t tiles = (product->num_rows + ROWS - 1) / ROWS;
    uint16_t *target = prepared;
    memset(target, 0, tiles * blocks * 2 * TILE_BYTES);
    for (int64_t row = 0; row < product->num_rows; row++)
        for (int64_t block = 0; block < blocks; block++) {
            uint16_t *tile = target + (row / ROWS * blocks + block) * TILE_BYTES + row % ROWS * 2;
            const uint16_t *from = (const uint16_t *)product->inputs + row * product->num_inputs + block * BLOCK;
            const int64_t rest = product->num_inputs - block * BLOCK;
            for (int i = 0; i < BLOCK; i++) {
                const int half = i / 32, word = i % 32, input = input_of(product->format, half, word);
                if (input < rest) tile[half * (TILE_BYTES / 2) + word / 2 * 32 + word % 2] = from[input];
            }
        }
}

/* The levels of a block of 16 outputs as two tiles. */
static inline __attribute__((always_inline)) void unpack(const uint8_t *const *rows, int64_t block, __m512i table,
                                                         uint16_t *panel) {
#pragma GCC unroll 16
    for (int r = 0; r < OUTPUTS; r++) {
        const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(rows[r] + block * 32)));
        _mm512_store_si512(panel + r * 32, _mm512_permutexvar_epi16(words, table));
        _mm512_store_si512(panel + TILE_BYTES / 2 + r * 32, _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), table));
    }
}

/* Sums over a block, or over each half of it, of 16 outputs and the rows of each tile of inputs. */
static inline __attribute__((always_inline)) void multiply_tiles(const uint16_t *panel, const uint16_t *inputs,
                                                                 int64_t stride, const int num_tiles, const int is_fine,
                                                                 float *sums) {
    _tile_loadd(4, panel, 64);
    _tile_loadd(5, panel + TILE_BYTES / 2, 64);
    for (int t = 0; t < num_tiles; t++) {
        _tile_loadd(6, inputs + t * stride, 64);
        _tile_loadd(7, inputs + t * stride + TILE_BYTES / 2, 64);
        _tile_zero(0);
        _tile_dpbf16ps(0, 4, 6);
        if (is_fine) {
            _tile_zero(1);
            _tile_dpbf16ps(1, 5, 7);
            _tile_stored(1, sums + (MOST_TILES + t) * TILE_FLOATS, 64);
        } else
            _tile_dpbf16ps(0, 5, 7);
        _tile_stored(0, sums + t * TILE_FLOATS, 64);
    }
    __asm__ volatile("" ::: "memory"); /* the compiler does not see what the tiles write */
}

/* 16 outputs, or `count` of them, times the rows of `num_tiles` tiles. */
static inline __attribute__((always_inline)) void outputs_of(const Product *product, const uint16_t *inputs,
                                                             int64_t first_row, int num_rows, const int num_tiles,
                                                             int64_t output, int count, const int is_fine, float *scales) {
    const int64_t blocks = (product->num_inputs + BLOCK - 1) / BLOCK, room = scale_room(product);
    const int64_t stride = blocks * TILE_BYTES; /* numbers of 16 bits from one tile of rows to the next */
    const int64_t blocks_of_group = product->group_size == 128 ? 2 : 1;
    const __m512i table = _mm512_broadcast_i64x4((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(product->levels)));
    _Alignas(64) uint16_t panels[PANELS][TILE_BYTES];
    _Alignas(64) float sums[PANELS][2 * MOST_TILES * TILE_FLOATS];
    __m512 totals[MOST_TILES][OUTPUTS];
    const uint8_t *rows[OUTPUTS];
#pragma GCC unroll 16
    for (int r = 0; r < OUTPUTS; r++) {
        const int64_t at = output + (r < count ? r : 0);
        rows[r] = product->codes + at * row_bytes(product);
        fill_scales(product, at, scales + r * room);
        for (int t = 0; t < num_tiles; t++) totals[t][r] = _mm512_setzero_ps();
    }
    for (int64_t block = 0; block < blocks + 2; block++) {
        if (block < blocks) unpack(rows, block, table, panels[block % PANELS]);
        if (block >= 1 && block <= blocks)
            multiply_tiles(panels[(block - 1) % PANELS], inputs + (block - 1) * TILE_BYTES, stride, num_tiles, is_fine,
                           sums[(block - 1) % PANELS]);
        if (block < 2) continue;
        const float *found = sums[(block - 2) % PANELS];
        const float *scale = scales + (is_fine ? 2 * (block - 2) : (block - 2) / blocks_of_group);
        for (int t = 0; t < num_tiles; t++)
#pragma GCC unroll 16
            for (int r = 0; r < OUTPUTS; r++) {
                const float *here = found + t * TILE_FLOATS + r * 16;
                totals[t][r] = _mm512_fmadd_ps(_mm512_load_ps(here), _mm512_set1_ps(scale[r * room]), totals[t][r]);
                if (is_fine)
                    totals[t][r] = _mm512_fmadd_ps(_mm512_load_ps(here + MOST_TILES * TILE_FLOATS),
                                                   _mm512_set1_ps(scale[r * room + 1]), totals[t][r]);
            }
    }
    for (int t = 0; t < num_tiles; t++)
        for (int r = 0; r < count; r++) {
            float values[ROWS];
            _mm512_storeu_ps(values, totals[t][r]);
            for (int m = 0; m < ROWS && t * ROWS + m < num_rows; m++)
                store(product, first_row + t * ROWS + m, output + r, values[m]);
        }
}

#define TILES(number)                                                                                              \
    static void tiles_##number(const Product *product, const uint16_t *inputs, int64_t first_row, int num_rows,     \
                               int64_t first, int64_t last, float *scales) {                                       \
        for (int64_t n = first; n < last; n += OUTPUTS) {                                                          \
            const int count = last - n < OUTPUTS ? (int)(last - n) : OUTPUTS;                                      \
            if (product->group_size == 32)                                                                         \
                outputs_of(product, inputs, first_row, num_rows, number, n, count, 1, scales);                     \
            else outputs_of(product, inputs, first_row, num_rows, number, n, count, 0, scales);                    \
        }                                                                                                          \
    }
TILES(1)
TILES(2)
TILES(3)
TILES(4)

void multiply_amx_bf16(const Product *product, const void *inputs, int64_t first_row, int num_rows, int64_t first,
                       int64_t last, float *scales) {
    const int64_t blocks = (product->num_inputs + BLOCK - 1) / BLOCK;
    const uint16_t *tiles = (const uint16_t *)inputs + first_row / ROWS * blocks * TILE_BYTES;
    configure_tiles();
    if (num_rows <= ROWS) tiles_1(product, tiles, first_row, num_rows, first, last, scales);
    else if (num_rows <= 2 * ROWS) tiles_2(product, tiles, first_row, num_rows, first, last, scales);
    else if (num_rows <= 3 * ROWS) tiles_3(product, tiles, first_row, num_rows, first, last, scales);
    else tiles_4(product, tiles, first_row, num_rows, first, last, scales);
    _tile_release();
}
