/* The peaks of the processor's vector units and, where it has them, matrix units (AMX), from registers alone.
 *
 *     cc -O3 -march=native -fopenmp cpu_matrix_peak.c -o cpu_matrix_peak && ./cpu_matrix_peak THREADS
 *
 * Prints one JSON object: TFLOP/s of float32 fused multiply-adds and TOP/s of 16-bit multiply-adds (vector units, with
 * their width), of 8-bit ones (VNNI); TFLOP/s in bfloat16 and TOP/s in 8 bits (matrix units). What the compiler was
 * told is not there, or the system does not lend, is left out. Multiplications and additions are counted apart.
 */
#define _GNU_SOURCE
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { REPEATS = 3 };

#if defined(__AVX512BW__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>

enum { VECTOR_ROUNDS = 20000000, LEFT = 4, RIGHT = 2, FLOATS, INT16, INT8, KINDS };
#ifdef __AVX512BW__
enum { VECTOR_BITS = 512 };
typedef __m512 Floats;
typedef __m512i Integers;
#define FUSED(a, b, sum) _mm512_fmadd_ps(a, b, sum)
#define PAIRS(a, b, sum) _mm512_add_epi32(sum, _mm512_madd_epi16(a, b))
#ifdef __AVX512VNNI__
#define FOURS(a, b, sum) _mm512_dpbusd_epi32(sum, a, b)
#endif
#else
enum { VECTOR_BITS = 256 };
typedef __m256 Floats;
typedef __m256i Integers;
#define FUSED(a, b, sum) _mm256_fmadd_ps(a, b, sum)
#define PAIRS(a, b, sum) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#ifdef __AVXVNNI__
#define FOURS(a, b, sum) _mm256_dpbusd_avx_epi32(sum, a, b)
#endif
#endif

/* Eight sums hide the latency; the statement of assembly keeps the compiler from computing a product once for all. */
#define LOOP(Vector, PRODUCT)                                                                                         \
    do {                                                                                                              \
        Vector left[LEFT] = {0}, right[RIGHT] = {0}, sums[LEFT][RIGHT] = {{{0}}};                                      \
        __asm__ volatile("" : "+v"(right[0]), "+v"(right[1]));                                                        \
        for (long round = 0; round < VECTOR_ROUNDS; round++) {                                                        \
            __asm__ volatile("" : "+v"(left[0]), "+v"(left[1]), "+v"(left[2]), "+v"(left[3]));                        \
            for (int i = 0; i < LEFT; i++)                                                                            \
                for (int k = 0; k < RIGHT; k++)                                                                       \
                    sums[i][k] = PRODUCT(left[i], right[k], sums[i][k]);                                              \
        }                                                                                                             \
        for (int i = 0; i < LEFT; i++)                                                                                \
            for (int k = 0; k < RIGHT; k++)                                                                           \
                __asm__ volatile("" : : "v"(sums[i][k]));                                                             \
    } while (0)

/* 1e12 operations a second of vectors of one kind. */
static double vector_peak(int kind, int num_threads) {
    double best = 1e9;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        double start = omp_get_wtime();
#pragma omp parallel num_threads(num_threads)
        {
            if (kind == FLOATS)
                LOOP(Floats, FUSED);
            else if (kind == INT16)
                LOOP(Integers, PAIRS);
#ifdef FOURS
            else
                LOOP(Integers, FOURS);
#endif
        }
        double seconds = omp_get_wtime() - start;
        best = seconds < best ? seconds : best;
    }
    int numbers = VECTOR_BITS / (kind == FLOATS ? 32 : kind == INT16 ? 16 : 8);
    return 2.0 * numbers * LEFT * RIGHT * VECTOR_ROUNDS * num_threads / best / 1e12;
}

static const char *print_vector_peaks(int num_threads) {
    printf("\"vector_bits\": %d, \"fp32_tflops\": %.3f, \"int16_tops\": %.3f", VECTOR_BITS,
           vector_peak(FLOATS, num_threads), vector_peak(INT16, num_threads));
#ifdef FOURS
    printf(", \"vnni_int8_tops\": %.3f", vector_peak(INT8, num_threads));
#endif
    return ", ";
}
#else
static const char *print_vector_peaks(int num_threads) {
    (void)num_threads;
    return "";
}
#endif

#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__linux__)
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64, ROUNDS = 2000000, PERMIT = 0x1023, TILE_DATA = 18 };

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileShapes;

/* Four accumulators hide the latency of the unit; four tiles of inputs feed them. */
static double seconds_of(int is_int8, int num_threads) {
    double start = omp_get_wtime();
#pragma omp parallel num_threads(num_threads)
    {
        TileShapes shapes;
        uint8_t zeros[ROWS * ROW_BYTES] = {0};
        memset(&shapes, 0, sizeof shapes);
        shapes.palette = 1;
        for (int tile = 0; tile < TILES; tile++) {
            shapes.row_bytes[tile] = ROW_BYTES;
            shapes.rows[tile] = ROWS;
        }
        /* gcc 12 believes that only 8 bytes of the shapes are read, and drops the other stores */
        __asm__ volatile("" : : "r"(&shapes) : "memory");
        _tile_loadconfig(&shapes);
        _tile_loadd(4, zeros, ROW_BYTES);
        _tile_loadd(5, zeros, ROW_BYTES);
        _tile_loadd(6, zeros, ROW_BYTES);
        _tile_loadd(7, zeros, ROW_BYTES);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        if (is_int8)
            for (long round = 0; round < ROUNDS; round++) {
                _tile_dpbssd(0, 4, 6);
                _tile_dpbssd(1, 4, 7);
                _tile_dpbssd(2, 5, 6);
                _tile_dpbssd(3, 5, 7);
            }
        else
            for (long round = 0; round < ROUNDS; round++) {
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        _tile_release();
    }
    return omp_get_wtime() - start;
}

static double peak(int is_int8, int num_threads) {
    double best = 1e9;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        double seconds = seconds_of(is_int8, num_threads);
        best = seconds < best ? seconds : best;
    }
    double products = 4.0 * ROWS * ROWS * (is_int8 ? ROW_BYTES : ROW_BYTES / 2);
    return 2 * products * ROUNDS * num_threads / best / 1e12;
}

static void print_matrix_peaks(int num_threads, const char *separator) {
    if (syscall(SYS_arch_prctl, PERMIT, TILE_DATA) != 0)
        return;
    printf("%s\"bf16_tflops\": %.2f, \"int8_tops\": %.2f", separator, peak(0, num_threads), peak(1, num_threads));
}
#else
static void print_matrix_peaks(int num_threads, const char *separator) {
    (void)num_threads;
    (void)separator;
}
#endif

int main(int argc, char **argv) {
    int num_threads = argc > 1 ? atoi(argv[1]) : omp_get_max_threads();
    if (num_threads < 1) {
        fprintf(stderr, "the number of threads must be at least 1\n");
        return 1;
    }
    printf("{");
    print_matrix_peaks(num_threads, print_vector_peaks(num_threads));
    puts("}");
    return 0;
}
