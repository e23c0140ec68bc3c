/* What a step computes besides products: norms, rotation, the gate, and attention over the cache; one table of functions
 * for each instruction set.
 *
 * Attention takes the keys of a head in blocks of KEYS_OF_BLOCK, counted from the first that the rows see. The weights of
 * a block are relative to its greatest score; blocks are merged in order. So a row's result depends on nothing but its
 * own keys, wherever they stand in the cache and whichever threads compute the blocks.
 */
#ifndef BAICHUAN2_ATTENTION_H
#define BAICHUAN2_ATTENTION_H

#include "step.h"

/* Keys and values of a head that are all below it get zeros as codes: the factor of smaller ones would be infinite. */
static const float TINY = 0x1p-100f;

enum { KEYS_OF_BLOCK = 256, MOST_HEAD_DIM = 256, PART_EXTRA = 16 };

/* Keys and values of one head of one sequence, from the first visible place on. */
typedef struct {
    const void *keys, *values;
    const float *key_scales, *value_scales; /* for CACHE_INT8 */
    int64_t head_dim;
    float scaling, slope;
    int32_t number, cache_kind;
} Head;

/* What the rows of a sequence found in a block, or in all blocks so far: for each row `head_dim` sums of weighted values,
 * then the greatest score and the sum of weights, at a stride of `part_stride`. */
static inline int64_t part_stride(int64_t head_dim) { return head_dim + PART_EXTRA; }

typedef struct {
    /* x rounded to the number, as a float */
    void (*round)(float *x, int64_t count, int number);
    /* numbers to floats */
    void (*widen)(const uint16_t *from, float *to, int64_t count, int number);
    /* out = weight * (x / root mean square), rounded after either */
    void (*norm)(const float *x, const uint16_t *weight, float *out, int64_t count, float epsilon, int number);
    /* x (D,) turned by its angles, in place and rounded */
    void (*rotate)(float *x, const float *cosine, const float *sine, int64_t head_dim, int number);
    /* out = silu(gate) * up; all of them rounded; gate and up come unrounded */
    void (*gate)(const float *gate, const float *up, float *out, int64_t count, int number);
    /* sum += x rounded, rounded */
    void (*add)(float *sum, const float *x, int64_t count, int number);
    /* rounded numbers to their 16 bits */
    void (*narrow)(const float *from, uint16_t *to, int64_t count, int number);
    /* one key or value (D,) to codes; its scale */
    float (*encode)(const float *from, int8_t *to, int64_t head_dim);
    /* The block of keys from `start` on for rows of queries (stride `stride`) that see their `counts` first keys each.
     * `scores`: room for num_rows * KEYS_OF_BLOCK. Rows that see none of them get no weight. */
    void (*attend)(const Head *head, const float *queries, int64_t stride, const int64_t *counts, int64_t num_rows,
                   int64_t start, float *scores, float *parts);
    /* adds the parts of the next block to those of all blocks before */
    void (*merge)(float *parts, const float *block, int64_t num_rows, int64_t head_dim);
    /* the mixed values of a row, rounded */
    void (*finish)(const float *part, float *out, int64_t head_dim, int number);
    /* an adapter's two products, see low_rank.h */
    void (*project)(const LowRank *change, const float *inputs, int64_t num_inputs, float *projected);
    void (*change)(const LowRank *change, const float *projected, int64_t num_outputs, int64_t first, int64_t last,
                   float *out);
} StepFunctions;

extern const StepFunctions step_functions_plain, step_functions_avx2, step_functions_avx512;

#endif
