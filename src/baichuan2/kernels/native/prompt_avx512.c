/* What lies between the products of a prompt's pass, in bfloat16 with the roundings of the modules: norms, the rotation
 * of queries and keys, the gate. Each reads and writes its rows once; torch's operations do so some thirty times. */
#include "numbers_avx512.h"

#include <math.h>

INLINE __m512 at(const uint16_t *from, __mmask16 mask) {
    return widened(_mm256_maskz_loadu_epi16(mask, from), NUMBER_BFLOAT16);
}

INLINE void put(uint16_t *to, __mmask16 mask, __m512 values) {
    _mm256_mask_storeu_epi16(to, mask, narrowed(values, NUMBER_BFLOAT16));
}

/* hidden (width,) += delta, where there is one; its root-mean-square norm times the weight to `normed`. */
static void add_norm(uint16_t *hidden, const uint16_t *delta, const uint16_t *weight, uint16_t *normed, int64_t width,
                     float epsilon) {
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += WIDTH) {
        const __mmask16 mask = first_of(width - i);
        __m512 x = at(hidden + i, mask);
        if (delta) {
            x = rounded(_mm512_add_ps(x, at(delta + i, mask)), NUMBER_BFLOAT16);
            put(hidden + i, mask, x);
        }
        squares = _mm512_fmadd_ps(x, x, squares);
    }
    const __m512 scale = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)width + epsilon));
    for (int64_t i = 0; i < width; i += WIDTH) {
        const __mmask16 mask = first_of(width - i);
        const __m512 x = rounded(_mm512_mul_ps(at(hidden + i, mask), scale), NUMBER_BFLOAT16);
        put(normed + i, mask, _mm512_mul_ps(x, at(weight + i, mask)));
    }
}

void baichuan2_add_norm(uint16_t *hidden, const uint16_t *delta, const uint16_t *weight, uint16_t *normed, int64_t rows,
                        int64_t width, float epsilon, int threads) {
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(threads)
#endif
    for (int64_t row = 0; row < rows; row++)
        add_norm(hidden + row * width, delta ? delta + row * width : NULL, weight, normed + row * width, width, epsilon);
    (void)threads;
}

/* A head's `size` numbers, a multiple of 32, turned by angles: pairs are those of its two halves. */
static void rotate(const uint16_t *from, const float *cosine, const float *sine, int64_t size, uint16_t *to) {
    for (int64_t i = 0; i < size / 2; i += WIDTH) {
        const int64_t j = i + size / 2;
        const __m512 first = at(from + i, 0xffff), second = at(from + j, 0xffff);
        const __m512 a = _mm512_mul_ps(first, _mm512_loadu_ps(cosine + i));
        const __m512 b = _mm512_mul_ps(second, _mm512_loadu_ps(sine + i));
        const __m512 c = _mm512_mul_ps(second, _mm512_loadu_ps(cosine + j));
        const __m512 d = _mm512_mul_ps(first, _mm512_loadu_ps(sine + j));
        put(to + i, 0xffff, _mm512_sub_ps(a, b));
        put(to + j, 0xffff, _mm512_add_ps(c, d));
    }
}

/* Of `packed` (batch, num_new, 3, heads, size): queries are turned in place, keys turned on their way to `keys`, values
 * copied to `values`, (batch, heads, capacity, size) each, from place `held` on. Angles: (num_new, size) each, or NULL:
 * nothing is turned. */
void baichuan2_rotate_and_store(uint16_t *packed, const float *cosine, const float *sine, uint16_t *keys, uint16_t *values,
                                int64_t batch, int64_t num_new, int64_t heads, int64_t size, int64_t held,
                                int64_t capacity, int threads) {
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(threads)
#endif
    for (int64_t row = 0; row < batch * num_new; row++) {
        const int64_t input = row / num_new, token = row % num_new;
        for (int64_t head = 0; head < heads; head++) {
            uint16_t *query = packed + (row * 3 * heads + head) * size;
            const uint16_t *key = query + heads * size, *value = key + heads * size;
            const int64_t to = ((input * heads + head) * capacity + held + token) * size;
            memcpy(values + to, value, 2 * size);
            if (cosine) {
                rotate(query, cosine + token * size, sine + token * size, size, query);
                rotate(key, cosine + token * size, sine + token * size, size, keys + to);
            } else
                memcpy(keys + to, key, 2 * size);
        }
    }
    (void)threads;
}

/* gate = silu(gate) * up, each rounded, for `count` numbers. */
void baichuan2_gated(uint16_t *gate, const uint16_t *up, int64_t count, int threads) {
    enum { PIECE = 4096 };
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(threads)
#endif
    for (int64_t start = 0; start < count; start += PIECE)
        for (int64_t i = start; i < count && i < start + PIECE; i += WIDTH) {
            const __mmask16 mask = first_of(count - i);
            const __m512 x = rounded(sigmoid_weighted(at(gate + i, mask)), NUMBER_BFLOAT16);
            put(gate + i, mask, _mm512_mul_ps(x, at(up + i, mask)));
        }
    (void)threads;
}
