/* The peak of the processor's matrix units (AMX), from registers alone: TFLOP/s in bfloat16 and TOP/s in 8 bits.
 *
 *     cc -O3 -march=native -fopenmp cpu_matrix_peak.c -o cpu_matrix_peak && ./cpu_matrix_peak THREADS
 *
 * Prints one JSON object; {} where the compiler was told of no such unit, or the system does not lend it.
 */
#define _GNU_SOURCE
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__linux__)
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64, ROUNDS = 2000000, REPEATS = 3, PERMIT = 0x1023, TILE_DATA = 18 };

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

int main(int argc, char **argv) {
    int num_threads = argc > 1 ? atoi(argv[1]) : omp_get_max_threads();
    if (num_threads < 1 || syscall(SYS_arch_prctl, PERMIT, TILE_DATA) != 0) {
        puts("{}");
        return 0;
    }
    printf("{\"bf16_tflops\": %.2f, \"int8_tops\": %.2f}\n", peak(0, num_threads), peak(1, num_threads));
    return 0;
}
#else
int main(void) {
    puts("{}");
    return 0;
}
#endif
