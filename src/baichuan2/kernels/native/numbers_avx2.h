/* 8 numbers at a time between their formats and float32, and the exponential function. */
#ifndef BAICHUAN2_NUMBERS_AVX2_H
#define BAICHUAN2_NUMBERS_AVX2_H

#include "product.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { WIDTH = 8 };

/* The first `count` of 8 floats, zeros after them, or all. */
INLINE __m256 load_floats(const float *from, int64_t count) {
    if (count >= WIDTH) return _mm256_loadu_ps(from);
    float some[WIDTH] = {0};
    memcpy(some, from, count * sizeof *from);
    return _mm256_loadu_ps(some);
}

INLINE void store_floats(float *to, __m256 x, int64_t count) {
    float some[WIDTH];
    if (count >= WIDTH) _mm256_storeu_ps(to, x);
    else {
        _mm256_storeu_ps(some, x);
        memcpy(to, some, count * sizeof *to);
    }
}

/* The same for numbers of 16 bits. */
INLINE __m128i load_bits(const uint16_t *from, int64_t count) {
    if (count >= WIDTH) return _mm_loadu_si128((const __m128i *)from);
    uint16_t some[WIDTH] = {0};
    memcpy(some, from, count * sizeof *from);
    return _mm_loadu_si128((const __m128i *)some);
}

INLINE void store_bits(uint16_t *to, __m128i bits, int64_t count) {
    uint16_t some[WIDTH];
    if (count >= WIDTH) _mm_storeu_si128((__m128i *)to, bits);
    else {
        _mm_storeu_si128((__m128i *)some, bits);
        memcpy(to, some, count * sizeof *to);
    }
}

INLINE __m256 widened(__m128i bits, int number) {
    if (number == NUMBER_FLOAT16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

/* Floats whose upper halves are the nearest bfloat16, ties to even; numbers that are none stay so. */
INLINE __m256i near_bfloat16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i near = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i none = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256 is_none = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(near), _mm256_castsi256_ps(none), is_none));
}

INLINE __m128i narrowed(__m256 x, int number) {
    if (number == NUMBER_FLOAT16) return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256i halves = _mm256_srli_epi32(near_bfloat16(x), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

INLINE __m256 rounded(__m256 x, int number) {
    if (number == NUMBER_FLOAT16) return widened(narrowed(x, number), number);
    return _mm256_castsi256_ps(_mm256_and_si256(near_bfloat16(x), _mm256_set1_epi32((int)0xffff0000)));
}

/* e^x to about one unit in the last place; numbers that are none stay so. */
INLINE __m256 exponential(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(-150.0f), _mm256_min_ps(_mm256_set1_ps(150.0f), x));
    const __m256 whole = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                                         _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 rest = _mm256_fnmadd_ps(whole, _mm256_set1_ps(0.693359375f), x); /* ln 2 in two parts, the first exact */
    rest = _mm256_fmadd_ps(whole, _mm256_set1_ps(2.12194440e-4f), rest);
    /* the coefficients of expf in the Cephes library */
    __m256 sum = _mm256_set1_ps(1.9875691500e-4f);
    sum = _mm256_fmadd_ps(sum, rest, _mm256_set1_ps(1.3981999507e-3f));
    sum = _mm256_fmadd_ps(sum, rest, _mm256_set1_ps(8.3334519073e-3f));
    sum = _mm256_fmadd_ps(sum, rest, _mm256_set1_ps(4.1665795894e-2f));
    sum = _mm256_fmadd_ps(sum, rest, _mm256_set1_ps(1.6666665459e-1f));
    sum = _mm256_fmadd_ps(sum, rest, _mm256_set1_ps(5.0000001201e-1f));
    sum = _mm256_fmadd_ps(sum, _mm256_mul_ps(rest, rest), _mm256_add_ps(rest, _mm256_set1_ps(1.0f)));
    /* times 2^whole, in two steps: one would leave the exponents that there are */
    const __m256i power = _mm256_cvtps_epi32(whole), half = _mm256_srai_epi32(power, 1), bias = _mm256_set1_epi32(127);
    const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(power, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(sum, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}

/* x * sigmoid(x). */
INLINE __m256 sigmoid_weighted(__m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f);
    return _mm256_div_ps(x, _mm256_add_ps(one, exponential(_mm256_sub_ps(_mm256_setzero_ps(), x))));
}

/* The sum of each of 8 vectors; the same tree of additions for every one of them. */
INLINE __m256 sums_of(const __m256 *v) {
    __m256 halves[4]; /* of v[i] and v[i + 4] */
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m256 low = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
        halves[i] = _mm256_add_ps(low, _mm256_permute2f128_ps(v[i], v[i + 4], 0x31));
    }
    const __m256 a = _mm256_add_ps(_mm256_unpacklo_ps(halves[0], halves[1]), _mm256_unpackhi_ps(halves[0], halves[1]));
    const __m256 b = _mm256_add_ps(_mm256_unpacklo_ps(halves[2], halves[3]), _mm256_unpackhi_ps(halves[2], halves[3]));
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
}

/* The sum of the 8 numbers: halves, then quarters, then the last two. */
INLINE float sum_of(__m256 x) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

INLINE float greatest_of(__m256 x) {
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}

#endif
