/* The read bandwidth of this machine's memory, measured again whenever it is asked for.
 *
 *     cc -O3 -march=native -fopenmp cpu_bandwidth.c -o cpu_bandwidth && echo | ./cpu_bandwidth THREADS MIB
 *
 * Each line of input is answered with the GB/s of the fastest of a few passes over one large buffer. The buffer must
 * exceed every cache (some servers share 480 MiB). Each thread reads one sequential part of it.
 */
#define _GNU_SOURCE
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PASSES = 3, WORDS_AT_ONCE = 32, BYTES_AHEAD = 4096, LINE = 64, PAGE = 4096 };

/* The sum of a part: the compiler makes vector additions of it, and cannot leave the reads out. */
static uint64_t sum_of(const uint64_t *words, size_t num_words) {
    uint64_t sums[WORDS_AT_ONCE] = {0};
    for (size_t i = 0; i + WORDS_AT_ONCE <= num_words; i += WORDS_AT_ONCE) {
        const char *ahead = (const char *)(words + i) + BYTES_AHEAD;
        for (int line = 0; line < WORDS_AT_ONCE * 8 / LINE; line++)
            __builtin_prefetch(ahead + line * LINE, 0, 3);
        for (int k = 0; k < WORDS_AT_ONCE; k++)
            sums[k] += words[i + k];
    }
    uint64_t total = 0;
    for (int k = 0; k < WORDS_AT_ONCE; k++)
        total += sums[k];
    return total;
}

int main(int argc, char **argv) {
    int num_threads = argc > 1 ? atoi(argv[1]) : omp_get_max_threads();
    size_t num_bytes = (size_t)(argc > 2 ? atoi(argv[2]) : 2048) << 20;
    uint64_t *words = mmap(NULL, num_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED || num_threads < 1) {
        fprintf(stderr, "there is no room for %zu bytes\n", num_bytes);
        return 1;
    }
#ifdef MADV_HUGEPAGE
    madvise(words, num_bytes, MADV_HUGEPAGE); /* where the system has none, the figure is that of small pages */
#endif
    size_t part = num_bytes / 8 / num_threads;
#pragma omp parallel num_threads(num_threads)
    memset(words + part * omp_get_thread_num(), omp_get_thread_num() + 1, part * 8);
    uint64_t seen = 0;
    for (int c; (c = getchar()) != EOF;) {
        if (c != '\n')
            continue;
        double best = 0;
        for (int pass = 0; pass < PASSES; pass++) {
            double start = omp_get_wtime();
#pragma omp parallel num_threads(num_threads) reduction(+ : seen)
            seen += sum_of(words + part * omp_get_thread_num(), part);
            double speed = part * 8 * num_threads / (omp_get_wtime() - start) / 1e9;
            best = speed > best ? speed : best;
        }
        printf("%.3f\n", best);
        fflush(stdout);
    }
    return seen == 1; /* uses the sum; what was written never adds up to 1 */
}
