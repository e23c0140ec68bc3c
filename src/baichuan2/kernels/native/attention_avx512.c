/* What a step computes besides products, with AVX-512; see attention.h. Sums are taken in an order that is the same for
 * every row, whatever else is computed at once. */
#include "attention.h"
#include "low_rank.h"
#include "numbers_avx512.h"

#include <float.h>
#include <math.h>

enum { AHEAD = 4096, LINE = 64 }; /* bytes of keys or values asked for ahead of use */

static void round_all(float *x, int64_t count, int number) {
    for (int64_t i = 0; i < count; i += WIDTH) {
        const __mmask16 mask = first_of(count - i);
        _mm512_mask_storeu_ps(x + i, mask, rounded(_mm512_maskz_loadu_ps(mask, x + i), number));
    }
}

static void widen(const uint16_t *from, float *to, int64_t count, int number) {
    for (int64_t i = 0; i < count; i += WIDTH) {
        const __mmask16 mask = first_of(count - i);
        _mm512_mask_storeu_ps(to + i, mask, widened(_mm256_maskz_loadu_epi16(mask, from + i), number));
    }
}

static void narrow(const float *from, uint16_t *to, int64_t count, int number) {
    for (int64_t i = 0; i < count; i += WIDTH) {
        const __mmask16 mask = first_of(count - i);
        _mm256_mask_storeu_epi16(to + i, mask, narrowed(_mm512_maskz_loadu_ps(mask, from + i), number));
    }
}

static void norm(const float *x, const uint16_t *weight, float *out, int64_t count, float epsilon, int number) {
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t i = 0; i < count; i += 4 * WIDTH)
        for (int part = 0; part < 4; part++) {
            const int64_t at = i + part * WIDTH;
            if (at >= count) break;
            const __m512 values = _mm512_maskz_loadu_ps(first_of(count - at), x + at);
            sums[part] = _mm512_fmadd_ps(values, values, sums[part]);
        }
    const __m512 all = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
    const __m512 factor = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(all) / (float)count + epsilon));
    for (int64_t i = 0; i < count; i += WIDTH) {
        const __mmask16 mask = first_of(count - i);
        const __m512 scaled = rounded(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), factor), number);
        const __m512 own = widened(_mm256_maskz_loadu_epi16(mask, weight + i), number);
        _mm512_mask_storeu_ps(out + i, mask, rounded(_mm512_mul_ps(own, scaled), number));
    }
}

static void rotate(float *x, const float *cosine, const float *sine, int64_t head_dim, int number) {
    const int64_t half = head_dim / 2;
    for (int64_t i = 0; i < half; i += WIDTH) {
        const __mmask16 mask = first_of(half - i);
        const __m512 first = _mm512_maskz_loadu_ps(mask, x + i), second = _mm512_maskz_loadu_ps(mask, x + half + i);
        const __m512 left = _mm512_sub_ps(_mm512_mul_ps(first, _mm512_maskz_loadu_ps(mask, cosine + i)),
                                          _mm512_mul_ps(second, _mm512_maskz_loadu_ps(mask, sine + i)));
        const __m512 right = _mm512_add_ps(_mm512_mul_ps(second, _mm512_maskz_loadu_ps(mask, cosine + half + i)),
                                           _mm512_mul_ps(first, _mm512_maskz_loadu_ps(mask, sine + half + i)));
        _mm512_mask_storeu_ps(x + i, mask, rounded(left, number));
        _mm512_mask_storeu_ps(x + half + i, mask, rounded(right, number));
    }
}

static void gate(const float *gate, const float *up, float *out, int64_t count, int number) {
    for (int64_t i = 0; i < count; i += WIDTH) {
        const __mmask16 mask = first_of(count - i);
        const __m512 x = rounded(_mm512_maskz_loadu_ps(mask, gate + i), number);
        const __m512 y = rounded(_mm512_maskz_loadu_ps(mask, up + i), number);
        _mm512_mask_storeu_ps(out + i, mask, rounded(_mm512_mul_ps(rounded(sigmoid_weighted(x), number), y), number));
    }
}

static void add(float *sum, const float *x, int64_t count, int number) {
    for (int64_t i = 0; i < count; i += WIDTH) {
        const __mmask16 mask = first_of(count - i);
        const __m512 more = rounded(_mm512_maskz_loadu_ps(mask, x + i), number);
        _mm512_mask_storeu_ps(sum + i, mask, rounded(_mm512_add_ps(_mm512_maskz_loadu_ps(mask, sum + i), more), number));
    }
}

static float encode(const float *from, int8_t *to, int64_t head_dim) {
    __m512 most = _mm512_setzero_ps();
    __mmask16 is_none = 0;
    for (int64_t i = 0; i < head_dim; i += WIDTH) {
        const __m512 values = _mm512_loadu_ps(from + i);
        is_none |= _mm512_cmp_ps_mask(_mm512_abs_ps(values), _mm512_set1_ps(FLT_MAX), _CMP_NLE_UQ);
        most = _mm512_max_ps(most, _mm512_abs_ps(values));
    }
    const float greatest = _mm512_reduce_max_ps(most);
    const __m512 factor = _mm512_set1_ps(greatest >= TINY && !is_none ? 127.0f / greatest : 0.0f);
    for (int64_t i = 0; i < head_dim; i += WIDTH) {
        const __m512i codes = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(from + i), factor));
        _mm_storeu_si128((__m128i *)(to + i), _mm512_cvtepi32_epi8(codes));
    }
    return is_none ? NAN : greatest / 127.0f;
}

/* 16 numbers of a key or value, without its scale, from byte `at` on. */
INLINE __m512 load(const char *at, const int kind) {
    if (kind == CACHE_INT8) return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
    return widened(_mm256_loadu_si256((const __m256i *)at), kind == CACHE_NUMBERS ? NUMBER_BFLOAT16 : NUMBER_FLOAT16);
}

enum { KIND_FLOAT16 = 2 }; /* a third kind beside CACHE_NUMBERS, which stands for bfloat16 here, and CACHE_INT8 */

INLINE int bytes_of(const int kind) { return kind == CACHE_INT8 ? 1 : 2; }

/* Keys of the block that starts at `start` which a row sees. */
static int64_t seen_of_block(int64_t count, int64_t start) {
    const int64_t rest = count - start;
    return rest > KEYS_OF_BLOCK ? KEYS_OF_BLOCK : rest > 0 ? rest : 0;
}

/* Products of a query with 16 keys; fewer are left: the last stands for those beyond. */
INLINE __m512 dots(const float *query, const char *keys, int64_t head_dim, int64_t left, const int kind) {
    const int64_t size = head_dim * bytes_of(kind);
    __m512 sums[WIDTH];
    if (left >= WIDTH) {
#pragma GCC unroll 16
        for (int j = 0; j < WIDTH; j++) sums[j] = _mm512_setzero_ps();
        for (int64_t i = 0; i < head_dim; i += WIDTH) {
            const __m512 part = _mm512_loadu_ps(query + i);
#pragma GCC unroll 16
            for (int j = 0; j < WIDTH; j++)
                sums[j] = _mm512_fmadd_ps(part, load(keys + j * size + i * bytes_of(kind), kind), sums[j]);
        }
    } else
        for (int j = 0; j < WIDTH; j++) {
            const char *key = keys + (j < left ? j : left - 1) * size;
            sums[j] = _mm512_setzero_ps();
            for (int64_t i = 0; i < head_dim; i += WIDTH)
                sums[j] = _mm512_fmadd_ps(_mm512_loadu_ps(query + i), load(key + i * bytes_of(kind), kind), sums[j]);
        }
    return sums_of(sums);
}

/* The scores of a block for all rows; keys that a row does not see get -infinity. */
INLINE void score(const Head *head, const float *queries, int64_t stride, const int64_t *counts, int64_t num_rows,
                  int64_t start, float *scores, const int kind) {
    const int64_t head_dim = head->head_dim, size = head_dim * bytes_of(kind);
    const int64_t most = seen_of_block(counts[num_rows - 1], start);
    const __m512 slope = _mm512_set1_ps(head->slope), scaling = _mm512_set1_ps(head->scaling);
    const __m512 steps = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int64_t j = 0; j < most; j += WIDTH) {
        const char *keys = (const char *)head->keys + (start + j) * size;
        for (int64_t byte = 0; byte < WIDTH * size; byte += LINE) _mm_prefetch(keys + AHEAD + byte, _MM_HINT_T0);
        __m512 factor = scaling;
        if (kind == CACHE_INT8)
            factor = _mm512_mul_ps(scaling, _mm512_maskz_loadu_ps(first_of(most - j), head->key_scales + start + j));
        for (int64_t row = 0; row < num_rows; row++) {
            const int64_t seen = seen_of_block(counts[row], start);
            if (seen <= j) continue;
            const __m512 distance = _mm512_add_ps(steps, _mm512_set1_ps((float)(start + j - (counts[row] - 1))));
            const __m512 found = dots(queries + row * stride, keys, head_dim, most - j, kind);
            const __m512 values = _mm512_fmadd_ps(slope, distance, _mm512_mul_ps(found, factor));
            _mm512_storeu_ps(scores + row * KEYS_OF_BLOCK + j,
                             _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), first_of(seen - j), values));
        }
    }
}

/* Scores to weights relative to the greatest, which is written behind the sums of values, with the sum of weights. */
INLINE void weigh(const Head *head, float *scores, int64_t seen, int64_t start, float *part, const int kind) {
    const int64_t head_dim = head->head_dim;
    __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
    for (int64_t j = 0; j < seen; j += WIDTH) most = _mm512_max_ps(most, _mm512_loadu_ps(scores + j));
    const float greatest = _mm512_reduce_max_ps(most);
    for (int64_t j = 0; j < seen; j += WIDTH) {
        const __mmask16 mask = first_of(seen - j);
        __m512 weights = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + j), _mm512_set1_ps(greatest)));
        weights = _mm512_maskz_mov_ps(mask, weights);
        total = _mm512_add_ps(total, weights);
        if (kind == CACHE_INT8)
            weights = _mm512_mul_ps(weights, _mm512_maskz_loadu_ps(mask, head->value_scales + start + j));
        _mm512_storeu_ps(scores + j, weights);
    }
    part[head_dim] = greatest;
    part[head_dim + 1] = _mm512_reduce_add_ps(total);
}

/* sums[i] = sum over the keys of weight * value[i] for `vectors` vectors of a head. */
INLINE void mix(const char *values, int64_t size, const float *weights, int64_t seen, float *sums, const int vectors,
                const int kind) {
    __m512 total[8];
    for (int v = 0; v < vectors; v++) total[v] = _mm512_setzero_ps();
    for (int64_t j = 0; j < seen; j++) {
        const char *value = values + j * size;
        const __m512 weight = _mm512_set1_ps(weights[j]);
        _mm_prefetch(value + AHEAD, _MM_HINT_T0);
        if (vectors * WIDTH * bytes_of(kind) > LINE) _mm_prefetch(value + AHEAD + LINE, _MM_HINT_T0);
        if (vectors * WIDTH * bytes_of(kind) > 2 * LINE) {
            _mm_prefetch(value + AHEAD + 2 * LINE, _MM_HINT_T0);
            _mm_prefetch(value + AHEAD + 3 * LINE, _MM_HINT_T0);
        }
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            total[v] = _mm512_fmadd_ps(weight, load(value + v * WIDTH * bytes_of(kind), kind), total[v]);
    }
    for (int v = 0; v < vectors; v++) _mm512_storeu_ps(sums + v * WIDTH, total[v]);
}

INLINE void attend_kind(const Head *head, const float *queries, int64_t stride, const int64_t *counts, int64_t num_rows,
                        int64_t start, float *scores, float *parts, const int kind) {
    const int64_t head_dim = head->head_dim, size = head_dim * bytes_of(kind), part = part_stride(head_dim);
    const char *values = (const char *)head->values + start * size;
    score(head, queries, stride, counts, num_rows, start, scores, kind);
    for (int64_t row = 0; row < num_rows; row++)
        weigh(head, scores + row * KEYS_OF_BLOCK, seen_of_block(counts[row], start), start, parts + row * part, kind);
    for (int64_t row = 0; row < num_rows; row++) {
        const int64_t seen = seen_of_block(counts[row], start);
        const float *weights = scores + row * KEYS_OF_BLOCK;
        float *sums = parts + row * part;
        int64_t i = 0;
        for (; i + 8 * WIDTH <= head_dim; i += 8 * WIDTH)
            mix(values + i * bytes_of(kind), size, weights, seen, sums + i, 8, kind);
        for (; i + 4 * WIDTH <= head_dim; i += 4 * WIDTH)
            mix(values + i * bytes_of(kind), size, weights, seen, sums + i, 4, kind);
        for (; i < head_dim; i += WIDTH) mix(values + i * bytes_of(kind), size, weights, seen, sums + i, 1, kind);
    }
}

static void attend(const Head *head, const float *queries, int64_t stride, const int64_t *counts, int64_t num_rows,
                   int64_t start, float *scores, float *parts) {
    if (head->cache_kind == CACHE_INT8)
        attend_kind(head, queries, stride, counts, num_rows, start, scores, parts, CACHE_INT8);
    else if (head->number == NUMBER_BFLOAT16)
        attend_kind(head, queries, stride, counts, num_rows, start, scores, parts, CACHE_NUMBERS);
    else attend_kind(head, queries, stride, counts, num_rows, start, scores, parts, KIND_FLOAT16);
}

static void merge(float *parts, const float *block, int64_t num_rows, int64_t head_dim) {
    const int64_t part = part_stride(head_dim);
    for (int64_t row = 0; row < num_rows; row++) {
        float *sums = parts + row * part;
        const float *more = block + row * part;
        if (more[head_dim + 1] == 0) continue; /* the row sees nothing of the block */
        const float greatest = sums[head_dim] > more[head_dim] ? sums[head_dim] : more[head_dim];
        const __m512 old = exponential(_mm512_set1_ps(sums[head_dim] - greatest));
        const __m512 new = exponential(_mm512_set1_ps(more[head_dim] - greatest));
        for (int64_t i = 0; i < head_dim; i += WIDTH) {
            const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(more + i), new);
            _mm512_storeu_ps(sums + i, _mm512_fmadd_ps(_mm512_loadu_ps(sums + i), old, scaled));
        }
        sums[head_dim + 1] = sums[head_dim + 1] * _mm512_cvtss_f32(old) + more[head_dim + 1] * _mm512_cvtss_f32(new);
        sums[head_dim] = greatest;
    }
}

static void finish(const float *part, float *out, int64_t head_dim, int number) {
    const __m512 total = _mm512_set1_ps(part[head_dim + 1]);
    for (int64_t i = 0; i < head_dim; i += WIDTH)
        _mm512_storeu_ps(out + i, rounded(_mm512_div_ps(_mm512_loadu_ps(part + i), total), number));
}

const StepFunctions step_functions_avx512 = {
    .round = round_all, .widen = widen, .norm = norm, .rotate = rotate, .gate = gate, .add = add, .narrow = narrow,
    .encode = encode, .attend = attend, .merge = merge, .finish = finish,
    .project = project_low_rank, .change = change_low_rank,
};
