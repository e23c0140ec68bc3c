/* What rows_avx2.c and rows_avx2_numbers.c share: how inputs are cut, and how weights are asked for. */
#ifndef BAICHUAN2_ROWS_AVX2_H
#define BAICHUAN2_ROWS_AVX2_H

#include "numbers_avx2.h"
#include "rows_kernels.h"

enum {
    BLOCK = 64,  /* inputs that share a scale */
    VECTOR = 16, /* 16-bit integers in a register */
};

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t num_blocks(const Weight *weight) { return (weight->num_inputs + BLOCK - 1) / BLOCK; }

/* Memory comes from far in one stream: a line is asked for long before its turn, over the ends of rows. */
enum { BYTES_AHEAD = 3072 };

INLINE void fetch_ahead(const void *bytes) { _mm_prefetch((const char *)bytes + BYTES_AHEAD, _MM_HINT_T0); }

#endif
