/* What the AVX-512 and AMX kernels of rows.h share: the scales of a weight, and inputs that integers cannot hold. */
#ifndef BAICHUAN2_ROWS_AVX512_H
#define BAICHUAN2_ROWS_AVX512_H

#include "avx512.h"
#include "numbers_avx512.h"
#include "rows_kernels.h"

enum { BLOCK = 64 }; /* inputs that share a scale */

INLINE int64_t num_blocks(const Weight *weight) { return (weight->num_inputs + BLOCK - 1) / BLOCK; }

/* Scales of a block. */
INLINE int per_block(const Weight *weight) { return weight->group_size == 32 ? 2 : 1; }

/* Only what tells the scales of groups, and where codes lie. */
static inline Product product_of(const Weight *weight) {
    return (Product){.scales = weight->scales, .nested_levels = weight->nested_levels,
                     .nested_scales = weight->nested_scales, .offset = weight->offset, .format = weight->format,
                     .scale_kind = weight->scale_kind, .num_inputs = weight->num_inputs,
                     .group_size = weight->group_size, .levels = weight->levels, .codes = weight->codes};
}

/* The scales of 16 entries of an output, one for each block, two with groups of 32; zeros beyond the row. Those `ahead`
 * bytes further are asked for. */
INLINE __m512 scales_of_entries(const Product *product, int64_t groups, int64_t output, int64_t entry, int64_t ahead) {
    static const int width_of_kind[] = {2, 4, 1};
    const int64_t first = output * groups, size = product->group_size;
    if (size == 0) return _mm512_set1_ps(scale_at(product, first));
    const int64_t at = size == 128 ? entry / 2 : entry, rest = groups - at;
    const __mmask16 mask = first_of(rest > 0 ? rest : 0) & (size == 128 ? 0xff : 0xffff);
    _mm_prefetch((const char *)product->scales + (first + at) * width_of_kind[product->scale_kind] + ahead, _MM_HINT_T0);
    const __m512 scales = sixteen_scales(product, first + at, mask);
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return size == 128 ? _mm512_permutexvar_ps(twice, scales) : scales;
}

static inline float level_at(const Weight *weight, const uint8_t *codes, int64_t input) {
    if (weight->format == FORMAT_INT8) return (int8_t)codes[input];
    const int64_t place = weight->format == FORMAT_NF4 ? input / 2 : input / BLOCK * 32 + input % 32;
    const int is_high = weight->format == FORMAT_NF4 ? input % 2 == 0 : input % BLOCK >= 32;
    float level;
    memcpy(&level, weight->levels + (is_high ? codes[place] >> 4 : codes[place] & 15), sizeof level);
    return level;
}

/* The products of an output with the blocks of a row of inputs that integers cannot hold: those whose scale, of
 * `per_block(weight)` for each block, is no number. `inputs`: the row in float32, there at least. */
static __attribute__((noinline, unused)) float special_sum(const Weight *weight, int64_t output, const float *scales,
                                                           const float *inputs) {
    const Product product = product_of(weight);
    const int64_t size = weight->group_size ? weight->group_size : weight->num_inputs;
    const uint8_t *codes = product.codes + output * row_bytes(&product);
    float sum = 0;
    for (int64_t input = 0; input < weight->num_inputs; input++) {
        const float scale = scales[input / BLOCK * per_block(weight)];
        if (scale == scale) continue;
        const float factor = scale_at(&product, output * num_groups(&product) + input / size);
        sum += level_at(weight, codes, input) * factor * inputs[input];
    }
    return sum;
}

#endif
