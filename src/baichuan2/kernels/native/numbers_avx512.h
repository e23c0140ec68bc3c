/* 16 numbers at a time between their formats and float32, and the exponential function. */
#ifndef BAICHUAN2_NUMBERS_AVX512_H
#define BAICHUAN2_NUMBERS_AVX512_H

#include "product.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { WIDTH = 16 };

/* The first `count` of 16, or all. */
INLINE __mmask16 first_of(int64_t count) { return count >= WIDTH ? 0xffff : (__mmask16)((1u << count) - 1); }

INLINE __m512 widened(__m256i bits, int number) {
    if (number == NUMBER_FLOAT16) return _mm512_cvtph_ps(bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

/* The bits of the nearest numbers, ties to even; numbers that are none stay so. */
INLINE __m256i narrowed(__m512 x, int number) {
    if (number == NUMBER_FLOAT16) return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i near = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 is_none = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    near = _mm512_mask_or_epi32(near, is_none, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(near, 16));
}

INLINE __m512 rounded(__m512 x, int number) { return widened(narrowed(x, number), number); }

/* e^x to about one unit in the last place; numbers that are none stay so. */
INLINE __m512 exponential(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-150.0f), _mm512_min_ps(_mm512_set1_ps(150.0f), x));
    const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x); /* ln 2 in two parts, the first exact */
    rest = _mm512_fmadd_ps(whole, _mm512_set1_ps(2.12194440e-4f), rest);
    /* the coefficients of expf in the Cephes library */
    __m512 sum = _mm512_set1_ps(1.9875691500e-4f);
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.3981999507e-3f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(8.3334519073e-3f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(4.1665795894e-2f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.6666665459e-1f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(5.0000001201e-1f));
    sum = _mm512_fmadd_ps(sum, _mm512_mul_ps(rest, rest), _mm512_add_ps(rest, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(sum, whole);
}

/* x * sigmoid(x). */
INLINE __m512 sigmoid_weighted(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(x, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

/* The sum of each of 16 vectors; the same tree of additions for every one of them. */
INLINE __m512 sums_of(__m512 *v) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) { /* halves of pairs: v[i] and v[i + 8] */
        const __m512 low = _mm512_shuffle_f32x4(v[i], v[i + 8], 0x44), high = _mm512_shuffle_f32x4(v[i], v[i + 8], 0xee);
        v[i] = _mm512_add_ps(low, high);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512 low = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88), high = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd);
        v[i] = _mm512_add_ps(low, high);
    }
    const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[2]), _mm512_unpackhi_ps(v[0], v[2]));
    const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(v[1], v[3]), _mm512_unpackhi_ps(v[1], v[3]));
    const __m512 sums = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)); /* of 0 to 3, 8 ..., 4 ..., 12 ... */
    return _mm512_shuffle_f32x4(sums, sums, 0xd8);
}

#endif
