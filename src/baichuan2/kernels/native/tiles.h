/* Calls `tile` of the including file with constant sizes: 4 outputs at once for up to 4 rows of inputs, else 2.
 *
 * The including file defines TILE_INPUT, the type of its prepared inputs.
 */
#define TILES(rows, outputs)                                                                            \
    static void tiles_##rows(const Product *product, const TILE_INPUT *inputs, int64_t first_row,         \
                             int64_t first, int64_t last, float *scales) {                              \
        const int is_fine = product->group_size == 32;                                                   \
        int64_t n = first;                                                                               \
        for (; n + outputs <= last; n += outputs) {                                                      \
            if (is_fine) tile(product, inputs, first_row, rows, n, outputs, 1, scales);                  \
            else tile(product, inputs, first_row, rows, n, outputs, 0, scales);                          \
        }                                                                                                \
        for (; n < last; n++) tile(product, inputs, first_row, rows, n, 1, is_fine, scales);              \
    }
TILES(1, 4)
TILES(2, 4)
TILES(3, 4)
TILES(4, 4)
TILES(5, 2)
TILES(6, 2)
TILES(7, 2)
TILES(8, 2)

static void run_tiles(const Product *product, const TILE_INPUT *inputs, int64_t first_row, int num_rows, int64_t first,
                      int64_t last, float *scales) {
    static void (*const table[])(const Product *, const TILE_INPUT *, int64_t, int64_t, int64_t, float *) = {
        tiles_1, tiles_2, tiles_3, tiles_4, tiles_5, tiles_6, tiles_7, tiles_8};
    table[num_rows - 1](product, inputs, first_row, first, last, scales);
}
