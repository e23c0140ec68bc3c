/* Times the products of few rows (native/rows.h) as a step calls them: threads that share the preparation of the inputs
 * and take pieces of the outputs from a counter, over one weight after another.
 *
 *     cc -O2 -fPIC -shared -pthread kernels_rows.c -o kernels_rows.so     (benchmarks/kernels.py does so)
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_THREADS = 256, SPINS = 20000, ALIGNMENT = 64, FLOAT_BYTES = 4 };

typedef void (*Prepare)(const void *weight, const float *inputs, int64_t num_rows, void *prepared, int part, int parts);
typedef void (*Multiply)(const void *weight, const void *prepared, int64_t num_rows, int64_t first, int64_t last,
                         float *out, int64_t stride, void *scratch);

/* What all threads share; mirrored in kernels.py. Inputs (num_rows, K) are taken `most_rows` at a time, outputs `chunk`,
 * a multiple of 16, as `scratch_size` is of 64. */
typedef struct {
    Prepare prepare;
    Multiply multiply;
    const void *const *weights;
    const float *inputs;
    void *prepared;
    int64_t num_weights, num_outputs, num_inputs, num_rows, most_rows, chunk, scratch_size;
    int32_t num_threads;
} Rotation;

typedef struct {
    const Rotation *rotation;
    atomic_int *arrived, *next; /* for each stage */
    int number;
} Thread;

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static void wait_for_all(atomic_int *arrived, int num_threads) {
    atomic_fetch_add(arrived, 1);
    for (long spins = 0; atomic_load_explicit(arrived, memory_order_acquire) < num_threads; spins++)
        if (spins > SPINS)
            sched_yield();
}

static void *run(void *argument) {
    const Thread *thread = argument;
    const Rotation *all = thread->rotation;
    float *out = aligned_alloc(ALIGNMENT, (size_t)(all->most_rows * all->chunk * FLOAT_BYTES));
    void *scratch = aligned_alloc(ALIGNMENT, (size_t)all->scratch_size + ALIGNMENT);
    int stage = 0;
    for (int64_t weight = 0; weight < all->num_weights; weight++)
        for (int64_t row = 0; row < all->num_rows; row += all->most_rows, stage++) {
            int64_t rows = all->num_rows - row < all->most_rows ? all->num_rows - row : all->most_rows;
            const float *inputs = all->inputs + row * all->num_inputs;
            all->prepare(all->weights[weight], inputs, rows, all->prepared, thread->number, all->num_threads);
            wait_for_all(&thread->arrived[2 * stage], all->num_threads);
            for (int64_t first; (first = atomic_fetch_add(&thread->next[stage], 1) * all->chunk) < all->num_outputs;) {
                int64_t last = first + all->chunk < all->num_outputs ? first + all->chunk : all->num_outputs;
                all->multiply(all->weights[weight], all->prepared, rows, first, last, out, all->chunk, scratch);
            }
            wait_for_all(&thread->arrived[2 * stage + 1], all->num_threads);
        }
    free(out);
    free(scratch);
    return NULL;
}

/* The seconds in which all weights are multiplied with all rows; below 0 where there is no memory or no thread. */
double rotate(const Rotation *rotation) {
    int num_threads = rotation->num_threads;
    int64_t stages = rotation->num_weights * ((rotation->num_rows + rotation->most_rows - 1) / rotation->most_rows);
    atomic_int *counters = calloc((size_t)(3 * stages), sizeof *counters);
    pthread_t handles[MOST_THREADS];
    Thread threads[MOST_THREADS];
    if (counters == NULL || num_threads < 1 || num_threads > MOST_THREADS) {
        free(counters);
        return -1;
    }
    double start = seconds_now();
    for (int number = 0; number < num_threads; number++) {
        threads[number] = (Thread){rotation, counters, counters + 2 * stages, number};
        if (number > 0 && pthread_create(&handles[number], NULL, run, &threads[number]) != 0)
            abort(); /* those that run already would wait for ever */
    }
    run(&threads[0]);
    for (int number = 1; number < num_threads; number++)
        pthread_join(handles[number], NULL);
    double seconds = seconds_now() - start;
    free(counters);
    return seconds;
}
