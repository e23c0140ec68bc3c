/* A step: all decoder layers, final norm and head for up to 64 new tokens of one or several sequences, in one call.
 *
 * Numbers are float32 inside and rounded to the model's own number (bfloat16 or float16) wherever a module of
 * model/modeling_baichuan.py rounds, so that both ways write the same text. A row's result depends neither on the other
 * rows of the call (for AMX see rows.h) nor on the number of threads. The structures are mirrored in kernels/steps.py:
 * change both.
 */
#ifndef BAICHUAN2_STEP_H
#define BAICHUAN2_STEP_H

#include "rows.h"

enum { CACHE_NUMBERS = 0, CACHE_INT8 = 1 }; /* keys and values as the model computes them, or codes with scales */

/* The five weights of a layer, by their numbers in the table of changes. */
enum { PACKED, OUTPUT, GATE, UP, DOWN, WEIGHTS_OF_LAYER };

/* What an adapter makes of a weight W (N, K): (W + up^T down), each row times its gain. All float32. */
typedef struct {
    const float *down; /* (R, K), its scaling included; NULL: the adapter leaves the weight as it is */
    const float *up;   /* (R, N) */
    const float *gain; /* (N,), or NULL */
    int64_t rank;
} LowRank;

typedef struct {
    Weight packed, output, gate, up, down; /* (3C, C): queries, keys, values; (C, C); (I, C); (I, C); (C, I) */
    const uint16_t *input_norm, *middle_norm; /* (C,) numbers of the model */
} StepLayer;

typedef struct {
    const StepLayer *layers;
    Weight head;                /* (V, C) */
    const uint16_t *final_norm; /* (C,) */
    const float *slopes;        /* (H,): a score gets slope * (key's place - row's place); or NULL */
    int64_t num_layers, hidden_size, num_heads, head_dim, inner_size;
    float epsilon, scaling; /* of the norms; of the scores */
    int32_t number;         /* NUMBER_BFLOAT16 or NUMBER_FLOAT16 */
    int32_t cache_kind;
    const LowRank *changes; /* (num_adapters, num_layers, WEIGHTS_OF_LAYER), or NULL */
    int64_t most_rank;      /* of all changes */
} StepModel;

/* Where a layer keeps the keys and values of all sequences: (B, H, capacity, D) numbers or int8 codes, and for codes
 * their scales (B, H, capacity). With pages: (num_pages, H, KEYS_OF_BLOCK, D) and (num_pages, H, KEYS_OF_BLOCK). */
typedef struct {
    void *keys, *values;
    float *key_scales, *value_scales;
} StepCache;

/* The new tokens. Rows of a sequence follow one another, in the order of their places. */
typedef struct {
    const StepCache *caches;    /* of each layer */
    const uint16_t *embeddings; /* (num_rows, C) */
    const float *cosine, *sine; /* (num_rows, D), or NULL with slopes */
    const int64_t *sequence;    /* (num_rows,): the row of the cache, or of the table of pages */
    const int64_t *place;       /* (num_rows,): the place in the cache, below `capacity` */
    const int64_t *first;       /* (num_rows,): the first place that the row sees; the last is its own */
    const int64_t *wanted;      /* (num_wanted,): the rows that get logits */
    const int64_t *pages;       /* (B, capacity / KEYS_OF_BLOCK): the page of each block of a sequence, whose rows
                                   see it from place 0 on; or NULL: a cache without pages */
    const int64_t *adapter;     /* (num_rows,): the adapter of each row, below 0: none; or NULL: of none of them */
    uint16_t *logits;           /* (num_wanted, V) */
    void *scratch;              /* `baichuan2_step_room` bytes, 64-byte aligned */
    int64_t num_rows, num_wanted, capacity;
} StepRows;

/* Bytes of scratch for steps of up to `num_rows` rows and threads, over contexts of up to `capacity` places. */
int64_t baichuan2_step_room(const StepModel *model, int64_t num_rows, int64_t capacity, int threads);

/* Computes the step: the new keys and values, and the logits. `instructions`: the most that may be used. */
void baichuan2_step(const StepModel *model, const StepRows *rows, int instructions, int threads);

/* So that structures of another version are not read by the wrong layout. */
int64_t baichuan2_step_size(void);

#endif
