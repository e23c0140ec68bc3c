/* Products of few rows with weights that are numbers of 16 bits, for AVX2, FMA and F16C: in float32, two sums side by side.
 *
 * As in rows_avx2.c a few rows meet the weight as it comes from memory, and more of them take it from a panel in the cache.
 */
#include "rows_avx2.h"

enum { LANES = 8, PIECE = 2 * LANES, PANEL_PIECES = 32 };
enum {
    ROWS_DIRECT = 4,   /* two sums each */
    PANEL_OUTPUTS = 8, /* for more rows, a chunk of so many outputs is taken apart and stays near in the cache */
    TILE_ROWS = 3,
    TILE_OUTPUTS = 2,
};

static int64_t num_pieces(const Weight *weight) { return (weight->num_inputs + PIECE - 1) / PIECE; }

static int64_t room(const Weight *weight, int64_t num_rows) {
    return num_rows * num_pieces(weight) * PIECE * (int64_t)sizeof(float);
}

/* Registers take bfloat16 apart into even numbers and odd ones. */
static int place(int format, int position) {
    return format == FORMAT_BFLOAT16 ? position % LANES * 2 + position / LANES : position;
}

static void prepare(const Weight *weight, const float *inputs, int64_t num_rows, void *prepared, int part, int parts) {
    const int64_t pieces = num_pieces(weight), width = weight->num_inputs;
    for (int64_t at = share(num_rows * pieces, part, parts); at < share(num_rows * pieces, part + 1, parts); at++) {
        const int64_t row = at / pieces, start = at % pieces * PIECE;
        float *to = (float *)prepared + at * PIECE;
        for (int i = 0; i < PIECE; i++) {
            const int64_t from = start + place(weight->format, i);
            to[i] = from < width ? inputs[row * width + from] : 0.0f;
        }
    }
}

/* 16 numbers of a row of weights, zeros beyond its end. */
INLINE void take_piece(const Weight *weight, const int format, const char *row, int64_t piece, __m256 *to) {
    const char *from = row + piece * PIECE * 2;
    uint16_t padded[PIECE] = {0};
    const int64_t rest = weight->num_inputs - piece * PIECE;
    if (rest < PIECE) from = memcpy(padded, from, (size_t)rest * 2);
    if (format == FORMAT_FLOAT16) {
        to[0] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
        to[1] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from + 1));
        return;
    }
    const __m256i bits = _mm256_loadu_si256((const __m256i *)from);
    to[0] = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
    to[1] = _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32((int)0xffff0000)));
}

typedef struct {
    const Weight *weight;
    const float *inputs;
    int64_t pieces, first, last, stride;
    float *out; /* output n of row m at m * stride + n - first */
} Call;

static const char *row_of(const Call *call, int64_t output) {
    return (const char *)call->weight->codes + output * call->weight->num_inputs * 2;
}

INLINE void direct(const Call *call, const int format, const int num_rows) {
    const int64_t pieces = call->pieces;
    for (int64_t output = call->first; output < call->last; output++) {
        const char *row = row_of(call, output);
        __m256 sums[ROWS_DIRECT][2];
        for (int m = 0; m < num_rows; m++) sums[m][0] = sums[m][1] = _mm256_setzero_ps();
        for (int64_t piece = 0; piece < pieces; piece++) {
            __m256 weights[2];
            if (piece % 2 == 0) fetch_ahead(row + piece * PIECE * 2);
            take_piece(call->weight, format, row, piece, weights);
            for (int m = 0; m < num_rows; m++) {
                const float *x = call->inputs + (m * pieces + piece) * PIECE;
                sums[m][0] = _mm256_fmadd_ps(weights[0], _mm256_loadu_ps(x), sums[m][0]);
                sums[m][1] = _mm256_fmadd_ps(weights[1], _mm256_loadu_ps(x + LANES), sums[m][1]);
            }
        }
        for (int m = 0; m < num_rows; m++)
            call->out[m * call->stride + output - call->first] = sum_of(_mm256_add_ps(sums[m][0], sums[m][1]));
    }
}

typedef struct {
    __m256 sums[PANEL_OUTPUTS][MOST_ROWS][2];
    __m256 weights[PANEL_OUTPUTS][PANEL_PIECES][2];
} Panel;

INLINE void tile(const Call *call, Panel *panel, int64_t row, const int num_rows, int output, const int num_outputs,
                 int64_t first, int64_t count) {
    __m256 sums[TILE_ROWS][TILE_OUTPUTS][2];
    const int64_t pieces = call->pieces;
    const float *inputs = call->inputs + (row * pieces + first) * PIECE;
    for (int m = 0; m < num_rows; m++)
        for (int n = 0; n < num_outputs; n++)
            for (int half = 0; half < 2; half++)
                sums[m][n][half] = first ? panel->sums[output + n][row + m][half] : _mm256_setzero_ps();
    for (int64_t piece = 0; piece < count; piece++)
        for (int half = 0; half < 2; half++) {
            __m256 weights[TILE_OUTPUTS];
            for (int n = 0; n < num_outputs; n++) weights[n] = panel->weights[output + n][piece][half];
            for (int m = 0; m < num_rows; m++) {
                const __m256 x = _mm256_loadu_ps(inputs + (m * pieces + piece) * PIECE + half * LANES);
                for (int n = 0; n < num_outputs; n++) sums[m][n][half] = _mm256_fmadd_ps(weights[n], x, sums[m][n][half]);
            }
        }
    for (int m = 0; m < num_rows; m++)
        for (int n = 0; n < num_outputs; n++)
            for (int half = 0; half < 2; half++) panel->sums[output + n][row + m][half] = sums[m][n][half];
}

INLINE void tiles(const Call *call, Panel *panel, int64_t row, const int num_rows, int num_outputs, int64_t first,
                  int64_t count) {
    int n = 0;
    for (; n + TILE_OUTPUTS <= num_outputs; n += TILE_OUTPUTS)
        tile(call, panel, row, num_rows, n, TILE_OUTPUTS, first, count);
    if (n < num_outputs) tile(call, panel, row, num_rows, n, 1, first, count);
}

INLINE void panel_of(const Call *call, Panel *panel, const int format, int64_t num_rows, int64_t output, int num_outputs) {
    for (int64_t first = 0; first < call->pieces; first += PANEL_PIECES) {
        const int64_t count = smaller(PANEL_PIECES, call->pieces - first);
        for (int n = 0; n < num_outputs; n++) {
            const char *row = row_of(call, output + n);
            for (int64_t piece = 0; piece < count; piece++) {
                if (piece % 2 == 0) fetch_ahead(row + (first + piece) * PIECE * 2);
                take_piece(call->weight, format, row, first + piece, panel->weights[n][piece]);
            }
        }
        int64_t row = 0;
        for (; row + TILE_ROWS <= num_rows; row += TILE_ROWS)
            tiles(call, panel, row, TILE_ROWS, num_outputs, first, count);
        if (num_rows - row == 2) tiles(call, panel, row, 2, num_outputs, first, count);
        if (num_rows - row == 1) tiles(call, panel, row, 1, num_outputs, first, count);
    }
    for (int n = 0; n < num_outputs; n++)
        for (int64_t row = 0; row < num_rows; row++)
            call->out[row * call->stride + output + n - call->first] =
                sum_of(_mm256_add_ps(panel->sums[n][row][0], panel->sums[n][row][1]));
}

INLINE void multiply_by(const Call *call, const int format, int64_t num_rows, Panel *panel) {
    if (num_rows == 1) direct(call, format, 1);
    else if (num_rows == 2) direct(call, format, 2);
    else if (num_rows == 3) direct(call, format, 3);
    else if (num_rows == 4) direct(call, format, 4);
    else
        for (int64_t output = call->first; output < call->last; output += PANEL_OUTPUTS)
            panel_of(call, panel, format, num_rows, output, (int)smaller(PANEL_OUTPUTS, call->last - output));
}

static int64_t scratch_room(const Weight *weight) {
    (void)weight;
    return sizeof(Panel);
}

static void multiply(const Weight *weight, const void *prepared, int64_t num_rows, int64_t first, int64_t last, float *out,
                     int64_t stride, void *scratch) {
    const Call call = {weight, prepared, num_pieces(weight), first, last, stride, out};
    if (weight->format == FORMAT_FLOAT16) multiply_by(&call, FORMAT_FLOAT16, num_rows, scratch);
    else multiply_by(&call, FORMAT_BFLOAT16, num_rows, scratch);
}

const RowsKernel rows_kernel_numbers_avx2 = {room, scratch_room, prepare, multiply};
