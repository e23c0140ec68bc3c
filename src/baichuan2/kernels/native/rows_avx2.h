/* What the files of rows_avx2_*.c share: inputs in 16-bit integers, and how rows are cut into tiles. */
#ifndef BAICHUAN2_ROWS_AVX2_H
#define BAICHUAN2_ROWS_AVX2_H

#include "rows_kernels.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum {
    BLOCK = 64,          /* inputs that share a scale */
    VECTOR = 16,         /* 16-bit integers in a register */
    PANEL_OUTPUTS = 8,   /* with more rows, a chunk of so many outputs is taken apart and stays in the first cache */
    TILE_ROWS = 3,
    TILE_OUTPUTS = 2,    /* sums that fill the registers */
};

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t num_blocks(const Weight *weight) { return (weight->num_inputs + BLOCK - 1) / BLOCK; }

/* Memory comes from far in one stream: a line is asked for long before its turn, over the ends of rows. */
enum { BYTES_AHEAD = 3072, LINE = 64 };

INLINE void fetch_ahead(const void *bytes) { _mm_prefetch((const char *)bytes + BYTES_AHEAD, _MM_HINT_T0); }

INLINE float sum_of(__m256 values) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

#endif
