/* Scales of a row of weights in float32, for both AVX-512 kernels. */
#ifndef BAICHUAN2_AVX512_H
#define BAICHUAN2_AVX512_H

#include "product.h"

#include <immintrin.h>

/* The scales of 16 groups from `first` on, counted through the whole weight; zeros, and nothing read, outside of `mask`. */
static inline __m512 sixteen_scales(const Product *product, int64_t first, __mmask16 mask) {
    const __m512 factor = _mm512_set1_ps(unit(product));
    if (product->scale_kind == SCALES_FLOAT16) {
        const uint16_t *from = (const uint16_t *)product->scales + first;
        return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from)), factor);
    }
    if (product->scale_kind == SCALES_FLOAT32)
        return _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, (const float *)product->scales + first), factor);
    const __m512i codes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, (const uint8_t *)product->scales + first));
    const __m512 levels = _mm512_i32gather_ps(codes, product->nested_levels, 4);
    /* 16 consecutive scales lie in two blocks of 256 at most */
    const int64_t block = first / 256, in_block = 256 - first % 256;
    const __mmask16 same = in_block >= 16 ? 0xffff : (__mmask16)((1 << in_block) - 1);
    __m512 nested = _mm512_set1_ps(mask ? product->nested_scales[block] : 0.0f);
    if (mask & ~same) nested = _mm512_mask_mov_ps(_mm512_set1_ps(product->nested_scales[block + 1]), same, nested);
    return _mm512_maskz_add_ps(mask, _mm512_mul_ps(levels, nested), _mm512_set1_ps(product->offset));
}

/* The scales of an output, one for each `group_size` inputs (a row's scale: one for each 64), zeros beyond. */
static inline void fill_scales(const Product *product, int64_t output, float *scales) {
    const int64_t groups = num_groups(product), first = output * groups, room = scale_room(product);
    if (product->group_size == 0) {
        const __m512 scale = _mm512_set1_ps(scale_at(product, first));
        for (int64_t i = 0; i < room; i += 16) _mm512_store_ps(scales + i, scale);
        return;
    }
    for (int64_t i = 0; i < room; i += 16) {
        const int64_t rest = groups - i;
        const __mmask16 mask = rest >= 16 ? 0xffff : rest <= 0 ? 0 : (__mmask16)((1 << rest) - 1);
        _mm512_store_ps(scales + i, sixteen_scales(product, first + i, mask));
    }
}

/* Where the scales of a step's vectors stand among those of the step: `half` 1 is for inputs 32 to 63 of a block. */
static inline __m512i scale_places(int64_t group_size, int half) {
    const int first = group_size == 32 ? half : 0;
    const int second = group_size == 32 ? 2 + half : group_size == 64 || group_size == 0 ? 1 : 0;
    return _mm512_mask_set1_epi32(_mm512_set1_epi32(first), 0xff00, second);
}

/* Groups of a step; a row's scale stands once for each 64 inputs. */
static inline int groups_of_step(int64_t group_size) { return group_size ? STEP / (int)group_size : 2; }

/* Bytes of 4-bit codes in a step, from byte `start` of a row on: 64, or the 32 that are left. */
static inline __m512i load_codes(const uint8_t *row, int64_t start, int64_t size) {
    const __mmask16 mask = size - start >= 64 ? 0xffff : 0xff;
    return _mm512_maskz_loadu_epi32(mask, row + start);
}

#endif
