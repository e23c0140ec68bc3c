/* Weights in 4 and 8 bits as rows_avx2.c multiplies them: codes taken apart to 16-bit levels, and scales as floats. */
#ifndef BAICHUAN2_ROWS_AVX2_WEIGHTS_H
#define BAICHUAN2_ROWS_AVX2_WEIGHTS_H

#include "rows_avx2.h"

typedef struct {
    __m256i low, high; /* the bytes of the 16 levels as integers, twice */
} Levels;

/* What a unit of the integer levels counts for, without the scale of the group. */
static float level_unit(const Weight *weight) {
    return weight->format == FORMAT_NF4 ? nf4_unit(weight->levels) : 1.0f / 128;
}

static Levels levels_of(const Weight *weight) {
    uint8_t low[16] = {0}, high[16] = {0};
    const float unit = level_unit(weight);
    for (int i = 0; i < 16 && weight->format != FORMAT_INT8; i++) {
        const int level = (int)lrintf(weight->levels[i] / unit);
        low[i] = (uint8_t)level;
        high[i] = (uint8_t)(level >> 8);
    }
    return (Levels){_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                    _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)high))};
}

/* 32 signed bytes as integers: the even ones, as products with 1 and 0, which leaves the units of shifts free; the odd ones. */
INLINE void widen(__m256i bytes, __m256i *to) {
    to[0] = _mm256_maddubs_epi16(_mm256_set1_epi16(1), bytes);
    to[1] = _mm256_srai_epi16(bytes, 8);
}

/* 64 weights as integers, in the order of `place`. */
INLINE void take_apart(const int format, const Levels *levels, const uint8_t *codes, __m256i *to) {
    const __m256i bytes = _mm256_loadu_si256((const __m256i *)codes);
    if (format == FORMAT_INT8) {
        widen(bytes, to);
        widen(_mm256_loadu_si256((const __m256i *)(codes + 32)), to + 2);
        return;
    }
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i lower = _mm256_and_si256(bytes, mask), upper = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    if (format == FORMAT_INT4) {
        widen(_mm256_shuffle_epi8(levels->low, lower), to);
        widen(_mm256_shuffle_epi8(levels->low, upper), to + 2);
        return;
    }
    const __m256i first[2] = {_mm256_shuffle_epi8(levels->low, upper), _mm256_shuffle_epi8(levels->high, upper)};
    const __m256i second[2] = {_mm256_shuffle_epi8(levels->low, lower), _mm256_shuffle_epi8(levels->high, lower)};
    to[0] = _mm256_unpacklo_epi8(first[0], first[1]);
    to[1] = _mm256_unpackhi_epi8(first[0], first[1]);
    to[2] = _mm256_unpacklo_epi8(second[0], second[1]);
    to[3] = _mm256_unpackhi_epi8(second[0], second[1]);
}

INLINE int bytes_of_block(int format) { return format == FORMAT_INT8 ? BLOCK : BLOCK / 2; }

static const uint8_t *codes_of(const Weight *weight, int64_t output) {
    const int64_t blocks = num_blocks(weight);
    return (const uint8_t *)weight->codes + output * (weight->format == FORMAT_INT8 ? weight->num_inputs : blocks * (BLOCK / 2));
}

/* Blocks whose codes are all there: the last of int8 may be short, and is taken from a copy. */
static int64_t whole_blocks(const Weight *weight) {
    return weight->format == FORMAT_INT8 ? weight->num_inputs / BLOCK : num_blocks(weight);
}

static void copy_last(const Weight *weight, const uint8_t *codes, uint8_t *to) {
    const int64_t whole = weight->num_inputs / BLOCK * BLOCK;
    memset(to, 0, BLOCK);
    memcpy(to, codes + whole, (size_t)(weight->num_inputs - whole));
}

static float scale_of(const Weight *weight, int64_t index) {
    uint16_t half;
    if (weight->scale_kind == SCALES_FLOAT16) {
        memcpy(&half, (const char *)weight->scales + 2 * index, sizeof half);
        return _cvtsh_ss(half);
    }
    if (weight->scale_kind == SCALES_FLOAT32) {
        float scale;
        memcpy(&scale, (const char *)weight->scales + 4 * index, sizeof scale);
        return scale;
    }
    const uint8_t code = ((const uint8_t *)weight->scales)[index];
    return weight->nested_levels[code] * weight->nested_scales[index / 256] + weight->offset;
}

/* `count` scales from `index` on, eight at a time as long as these are all there. */
static void scales_from(const Weight *weight, int64_t index, int64_t count, float *to) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        __m256 scales;
        const char *from = (const char *)weight->scales;
        if (weight->scale_kind == SCALES_FLOAT16)
            scales = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 2 * (index + i))));
        else if (weight->scale_kind == SCALES_FLOAT32) scales = _mm256_loadu_ps((const float *)(from + 4 * (index + i)));
        else {
            if ((index + i) / 256 != (index + i + 7) / 256) break;
            const __m256i codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(from + index + i)));
            scales = _mm256_add_ps(_mm256_mul_ps(_mm256_i32gather_ps(weight->nested_levels, codes, 4),
                                                 _mm256_set1_ps(weight->nested_scales[(index + i) / 256])),
                                   _mm256_set1_ps(weight->offset));
        }
        _mm256_storeu_ps(to + i, scales);
    }
    for (; i < count; i++) to[i] = scale_of(weight, index + i);
}

static inline int64_t num_groups_of(const Weight *weight) {
    return weight->group_size ? (weight->num_inputs + weight->group_size - 1) / weight->group_size : 1;
}

/* The scales of blocks first ... first + count - 1 of an output: one for each block, or two for groups of 32; none where
 * the whole row has one, which its sum is multiplied by. */
static void scales_of(const Weight *weight, int64_t output, int64_t first, int64_t count, float *to) {
    const int64_t groups = num_groups_of(weight), row = output * groups;
    if (weight->group_size == 32) {
        const int64_t rest = groups - 2 * first;
        scales_from(weight, row + 2 * first, smaller(2 * count, rest), to);
        if (rest < 2 * count) to[rest] = 0;
    } else if (weight->group_size == BLOCK) scales_from(weight, row + first, count, to);
    else
        for (int64_t i = 0; i < count; i++) to[i] = scale_of(weight, row + (first + i) / 2);
}

#endif
