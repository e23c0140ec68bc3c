/* What a step computes besides products, with AVX2, FMA and F16C; see attention.h.
 *
 * One row reads keys and values as they lie in the cache, at the speed of memory. Several rows share a few of them
 * widened to float32. A score is summed in the same order either way, and so are mixed values.
 */
#include "attention.h"
#include "low_rank.h"
#include "numbers_avx2.h"

#include <math.h>

enum {
    KEYS_AT_ONCE = 16,
    AHEAD = 2048, /* bytes of keys or values asked for ahead of use, evenly: many requests at once would wait */
    LINE = 64,
    /* what keys and values are: CACHE_NUMBERS stands for bfloat16 here, beside CACHE_INT8, float16 and widened ones */
    KIND_FLOAT16 = 2,
    KIND_FLOAT32 = 3,
};

static void round_all(float *x, int64_t count, int number) {
    for (int64_t i = 0; i < count; i += WIDTH)
        store_floats(x + i, rounded(load_floats(x + i, count - i), number), count - i);
}

static void widen(const uint16_t *from, float *to, int64_t count, int number) {
    for (int64_t i = 0; i < count; i += WIDTH)
        store_floats(to + i, widened(load_bits(from + i, count - i), number), count - i);
}

static void narrow(const float *from, uint16_t *to, int64_t count, int number) {
    for (int64_t i = 0; i < count; i += WIDTH)
        store_bits(to + i, narrowed(load_floats(from + i, count - i), number), count - i);
}

/* Sums in the order of the plain version, so that both give the same bits. */
static void norm(const float *x, const uint16_t *weight, float *out, int64_t count, float epsilon, int number) {
    __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t i = 0; i < count; i += 2 * WIDTH)
        for (int part = 0; part < 2; part++) {
            const int64_t at = i + part * WIDTH;
            if (at >= count) break;
            const __m256 values = load_floats(x + at, count - at);
            sums[part] = _mm256_add_ps(sums[part], _mm256_mul_ps(values, values));
        }
    const float mean = sum_of(_mm256_add_ps(sums[0], sums[1])) / (float)count;
    const __m256 factor = _mm256_set1_ps(1.0f / sqrtf(mean + epsilon));
    for (int64_t i = 0; i < count; i += WIDTH) {
        const int64_t left = count - i;
        const __m256 scaled = rounded(_mm256_mul_ps(load_floats(x + i, left), factor), number);
        const __m256 own = widened(load_bits(weight + i, left), number);
        store_floats(out + i, rounded(_mm256_mul_ps(own, scaled), number), left);
    }
}

static void rotate(float *x, const float *cosine, const float *sine, int64_t head_dim, int number) {
    const int64_t half = head_dim / 2; /* a multiple of 8 */
    for (int64_t i = 0; i < half; i += WIDTH) {
        const __m256 first = _mm256_loadu_ps(x + i), second = _mm256_loadu_ps(x + half + i);
        const __m256 left = _mm256_sub_ps(_mm256_mul_ps(first, _mm256_loadu_ps(cosine + i)),
                                          _mm256_mul_ps(second, _mm256_loadu_ps(sine + i)));
        const __m256 right = _mm256_add_ps(_mm256_mul_ps(second, _mm256_loadu_ps(cosine + half + i)),
                                           _mm256_mul_ps(first, _mm256_loadu_ps(sine + half + i)));
        _mm256_storeu_ps(x + i, rounded(left, number));
        _mm256_storeu_ps(x + half + i, rounded(right, number));
    }
}

static void gate(const float *gate, const float *up, float *out, int64_t count, int number) {
    for (int64_t i = 0; i < count; i += WIDTH) {
        const int64_t left = count - i;
        const __m256 x = rounded(load_floats(gate + i, left), number), y = rounded(load_floats(up + i, left), number);
        store_floats(out + i, rounded(_mm256_mul_ps(rounded(sigmoid_weighted(x), number), y), number), left);
    }
}

static void add(float *sum, const float *x, int64_t count, int number) {
    for (int64_t i = 0; i < count; i += WIDTH) {
        const __m256 more = rounded(load_floats(x + i, count - i), number);
        store_floats(sum + i, rounded(_mm256_add_ps(load_floats(sum + i, count - i), more), number), count - i);
    }
}

static float encode(const float *from, int8_t *to, int64_t head_dim) {
    const __m256 sign = _mm256_set1_ps(-0.0f), limit = _mm256_set1_ps(127.5f);
    __m256 most = _mm256_setzero_ps(), is_right = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    for (int64_t i = 0; i < head_dim; i += WIDTH) /* in this order, what is no number is passed over */
        most = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(from + i)), most);
    const float greatest = greatest_of(most);
    const __m256 factor = _mm256_set1_ps(greatest >= TINY ? 127.0f / greatest : 0.0f);
    for (int64_t i = 0; i < head_dim; i += WIDTH) {
        const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(from + i), factor);
        const __m256 is_code = _mm256_cmp_ps(_mm256_andnot_ps(sign, scaled), limit, _CMP_LE_OQ);
        const __m256i codes = _mm256_cvtps_epi32(_mm256_and_ps(scaled, is_code));
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
        _mm_storel_epi64((__m128i *)(to + i), _mm_packs_epi16(words, words));
        is_right = _mm256_and_ps(is_right, is_code);
    }
    return _mm256_movemask_ps(is_right) == 0xff ? greatest / 127.0f : NAN;
}

INLINE int bytes_of(const int kind) { return kind == CACHE_INT8 ? 1 : kind == KIND_FLOAT32 ? 4 : 2; }

/* 8 numbers of a key or value, without its scale. */
INLINE __m256 load(const char *at, const int kind) {
    if (kind == KIND_FLOAT32) return _mm256_loadu_ps((const float *)at);
    if (kind == CACHE_INT8) return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at)));
    return widened(_mm_loadu_si128((const __m128i *)at), kind == KIND_FLOAT16 ? NUMBER_FLOAT16 : NUMBER_BFLOAT16);
}

/* `count` keys or values to floats, zeros up to KEYS_AT_ONCE. */
INLINE void widen_keys(const char *from, int64_t count, int64_t head_dim, float *to, const int kind) {
    for (int64_t i = 0; i < count * head_dim; i += WIDTH)
        _mm256_store_ps(to + i, load(from + i * bytes_of(kind), kind));
    if (count < KEYS_AT_ONCE) memset(to + count * head_dim, 0, (KEYS_AT_ONCE - count) * head_dim * sizeof *to);
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Keys of the block that starts at `start` which a row sees. */
static int64_t seen_of_block(int64_t count, int64_t start) {
    const int64_t rest = count - start;
    return rest > 0 ? smaller(rest, KEYS_OF_BLOCK) : 0;
}

/* Products of one query with 8 keys or of two with 4: always 8 sums, each of 8 that run along the head. */
INLINE void score_tile(const float *queries, int64_t stride, const char *keys, int64_t head_dim, float *scores,
                       const int rows, const int kind) {
    const int64_t size = head_dim * bytes_of(kind);
    const int num_keys = WIDTH / rows;
    __m256 sums[WIDTH];
#pragma GCC unroll 8
    for (int i = 0; i < WIDTH; i++) sums[i] = _mm256_setzero_ps();
    for (int64_t i = 0; i < head_dim; i += WIDTH) {
        __m256 parts[2];
        for (int row = 0; row < rows; row++) parts[row] = _mm256_loadu_ps(queries + row * stride + i);
        if (kind != KIND_FLOAT32) /* one row: 64 numbers are taken */
            for (int line = 0; line < bytes_of(kind); line++)
                _mm_prefetch(keys + AHEAD + i * bytes_of(kind) * WIDTH + line * LINE, _MM_HINT_T0);
#pragma GCC unroll 8
        for (int j = 0; j < num_keys; j++) {
            const __m256 key = load(keys + j * size + i * bytes_of(kind), kind);
            for (int row = 0; row < rows; row++)
                sums[row * num_keys + j] = _mm256_fmadd_ps(parts[row], key, sums[row * num_keys + j]);
        }
    }
    const __m256 found = sums_of(sums);
    if (rows == 1) _mm256_storeu_ps(scores, found);
    else {
        _mm_storeu_ps(scores, _mm256_castps256_ps128(found));
        _mm_storeu_ps(scores + KEYS_OF_BLOCK, _mm256_extractf128_ps(found, 1));
    }
}

/* Products of all rows that see any of KEYS_AT_ONCE keys, the first of which is number `at` of the block. */
INLINE void score_rows(const float *queries, int64_t stride, const int64_t *counts, int64_t num_rows, int64_t start,
                       int64_t at, const char *keys, int64_t head_dim, float *scores, const int kind) {
    const int64_t size = head_dim * bytes_of(kind);
    int64_t row = 0;
    for (; row + 2 <= num_rows; row += 2) {
        const int64_t seen = smaller(seen_of_block(counts[row + 1], start) - at, KEYS_AT_ONCE);
        const float *own = queries + row * stride;
        float *target = scores + row * KEYS_OF_BLOCK + at;
        for (int64_t j = 0; j < seen; j += WIDTH / 2)
            score_tile(own, stride, keys + j * size, head_dim, target + j, 2, kind);
    }
    if (row == num_rows) return;
    const int64_t seen = smaller(seen_of_block(counts[row], start) - at, KEYS_AT_ONCE);
    float *target = scores + row * KEYS_OF_BLOCK + at;
    for (int64_t j = 0; j < seen; j += WIDTH)
        score_tile(queries + row * stride, stride, keys + j * size, head_dim, target + j, 1, kind);
}

/* Products of a row's query to weights relative to the greatest score, which is written behind the sums of values, with
 * the sum of weights. `last`: the row's place, counted from the first key of the block. */
INLINE void weigh(const Head *head, float *scores, int64_t seen, int64_t start, int64_t last, float *part,
                  const int kind) {
    const __m256 steps = _mm256_set_ps(7, 6, 5, 4, 3, 2, 1, 0), none = _mm256_set1_ps(-INFINITY);
    const __m256 scaling = _mm256_set1_ps(head->scaling), slope = _mm256_set1_ps(head->slope);
    __m256 most = none, total = _mm256_setzero_ps();
    for (int64_t j = 0; j < seen; j += WIDTH) {
        __m256 factor = scaling;
        if (kind == CACHE_INT8) factor = _mm256_mul_ps(scaling, load_floats(head->key_scales + start + j, seen - j));
        const __m256 distance = _mm256_add_ps(steps, _mm256_set1_ps((float)(j - last)));
        __m256 values = _mm256_fmadd_ps(slope, distance, _mm256_mul_ps(_mm256_loadu_ps(scores + j), factor));
        const __m256 is_seen = _mm256_cmp_ps(steps, _mm256_set1_ps((float)(seen - j)), _CMP_LT_OQ);
        values = _mm256_blendv_ps(none, values, is_seen);
        _mm256_storeu_ps(scores + j, values);
        most = _mm256_max_ps(values, most); /* in this order, what is no number is passed over */
    }
    const float greatest = greatest_of(most);
    for (int64_t j = 0; j < seen; j += WIDTH) {
        __m256 weights = exponential(_mm256_sub_ps(_mm256_loadu_ps(scores + j), _mm256_set1_ps(greatest)));
        const __m256 is_seen = _mm256_cmp_ps(steps, _mm256_set1_ps((float)(seen - j)), _CMP_LT_OQ);
        weights = _mm256_and_ps(weights, is_seen);
        total = _mm256_add_ps(total, weights);
        if (kind == CACHE_INT8)
            weights = _mm256_mul_ps(weights, load_floats(head->value_scales + start + j, seen - j));
        _mm256_storeu_ps(scores + j, weights);
    }
    part[head->head_dim] = greatest;
    part[head->head_dim + 1] = sum_of(total);
}

/* sums[i] += weight * value[i] over `count` keys, key after key, for some rows and vectors of the head. */
INLINE void mix_tile(const char *values, int64_t size, int64_t count, const float *weights, float *sums, int64_t part,
                     const int rows, const int vectors, const int kind) {
    __m256 totals[8];
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++) totals[row * vectors + v] = _mm256_loadu_ps(sums + row * part + v * WIDTH);
    for (int64_t j = 0; j < count; j++) {
        __m256 numbers[8];
        if (kind != KIND_FLOAT32)
            for (int byte = 0; byte < vectors * WIDTH * bytes_of(kind); byte += LINE)
                _mm_prefetch(values + AHEAD + j * size + byte, _MM_HINT_T0);
        if (rows > 1)
            for (int v = 0; v < vectors; v++) numbers[v] = load(values + j * size + v * WIDTH * bytes_of(kind), kind);
        for (int row = 0; row < rows; row++) {
            const __m256 weight = _mm256_broadcast_ss(weights + row * KEYS_OF_BLOCK + j);
            for (int v = 0; v < vectors; v++) {
                const __m256 value = rows > 1 ? numbers[v] : load(values + j * size + v * WIDTH * bytes_of(kind), kind);
                totals[row * vectors + v] = _mm256_fmadd_ps(weight, value, totals[row * vectors + v]);
            }
        }
    }
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++) _mm256_storeu_ps(sums + row * part + v * WIDTH, totals[row * vectors + v]);
}

/* The same for the whole head; always 8 sums at once, where the head has as many. */
INLINE void mix(const char *values, int64_t count, const float *weights, float *sums, int64_t head_dim, const int rows,
                const int kind) {
    const int64_t size = head_dim * bytes_of(kind), part = part_stride(head_dim);
    const int vectors = 8 / rows;
    int64_t i = 0;
    for (; i + vectors * WIDTH <= head_dim; i += vectors * WIDTH)
        mix_tile(values + i * bytes_of(kind), size, count, weights, sums + i, part, rows, vectors, kind);
    for (; i < head_dim; i += 2 * WIDTH)
        mix_tile(values + i * bytes_of(kind), size, count, weights, sums + i, part, rows, 2, kind);
}

/* Mixes KEYS_AT_ONCE widened values, the first of which is number `at` of the block, into all rows that see them. Four
 * rows share those that all of them see; a value that a row does not see must not touch it, not even with no weight. */
static void mix_rows(const int64_t *counts, int64_t num_rows, int64_t start, int64_t at, const float *values,
                     int64_t head_dim, const float *weights, float *parts) {
    const int64_t part = part_stride(head_dim);
    for (int64_t first = 0; first < num_rows; first += 4) {
        const int64_t last = smaller(first + 4, num_rows);
        const float *own = weights + first * KEYS_OF_BLOCK + at;
        float *sums = parts + first * part;
        int64_t common = 0;
        if (last - first == 4) {
            common = smaller(seen_of_block(counts[first], start) - at, KEYS_AT_ONCE);
            if (common > 0) mix((const char *)values, common, own, sums, head_dim, 4, KIND_FLOAT32);
            else common = 0;
        }
        for (int64_t row = first; row < last; row++, own += KEYS_OF_BLOCK, sums += part) {
            const int64_t seen = smaller(seen_of_block(counts[row], start) - at, KEYS_AT_ONCE);
            if (seen > common)
                mix((const char *)(values + common * head_dim), seen - common, own + common, sums, head_dim, 1,
                    KIND_FLOAT32);
        }
    }
}

INLINE void attend_kind(const Head *head, const float *queries, int64_t stride, const int64_t *counts, int64_t num_rows,
                        int64_t start, float *scores, float *parts, const int kind) {
    const int64_t head_dim = head->head_dim, size = head_dim * bytes_of(kind), part = part_stride(head_dim);
    const int64_t most = seen_of_block(counts[num_rows - 1], start);
    const char *keys = (const char *)head->keys + start * size, *values = (const char *)head->values + start * size;
    _Alignas(32) float wide[KEYS_AT_ONCE * MOST_HEAD_DIM];
    for (int64_t at = 0; at < most; at += KEYS_AT_ONCE) {
        if (num_rows == 1 && most - at >= KEYS_AT_ONCE) {
            score_rows(queries, stride, counts, 1, start, at, keys + at * size, head_dim, scores, kind);
            continue;
        }
        widen_keys(keys + at * size, smaller(most - at, KEYS_AT_ONCE), head_dim, wide, kind);
        score_rows(queries, stride, counts, num_rows, start, at, (const char *)wide, head_dim, scores, KIND_FLOAT32);
    }
    for (int64_t row = 0; row < num_rows; row++) {
        memset(parts + row * part, 0, head_dim * sizeof *parts);
        weigh(head, scores + row * KEYS_OF_BLOCK, seen_of_block(counts[row], start), start, counts[row] - 1 - start,
              parts + row * part, kind);
    }
    for (int64_t at = 0; at < most; at += KEYS_AT_ONCE) {
        const int64_t count = smaller(most - at, KEYS_AT_ONCE);
        if (num_rows == 1) {
            mix(values + at * size, count, scores + at, parts, head_dim, 1, kind);
            continue;
        }
        widen_keys(values + at * size, count, head_dim, wide, kind);
        mix_rows(counts, num_rows, start, at, wide, head_dim, scores, parts);
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
        const __m256 old = exponential(_mm256_set1_ps(sums[head_dim] - greatest));
        const __m256 new = exponential(_mm256_set1_ps(more[head_dim] - greatest));
        for (int64_t i = 0; i < head_dim; i += WIDTH) {
            const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(more + i), new);
            _mm256_storeu_ps(sums + i, _mm256_fmadd_ps(_mm256_loadu_ps(sums + i), old, scaled));
        }
        sums[head_dim + 1] = sums[head_dim + 1] * _mm256_cvtss_f32(old) + more[head_dim + 1] * _mm256_cvtss_f32(new);
        sums[head_dim] = greatest;
    }
}

static void finish(const float *part, float *out, int64_t head_dim, int number) {
    const __m256 total = _mm256_set1_ps(part[head_dim + 1]);
    for (int64_t i = 0; i < head_dim; i += WIDTH)
        _mm256_storeu_ps(out + i, rounded(_mm256_div_ps(_mm256_loadu_ps(part + i), total), number));
}

const StepFunctions step_functions_avx2 = {
    .round = round_all, .widen = widen, .norm = norm, .rotate = rotate, .gate = gate, .add = add, .narrow = narrow,
    .encode = encode, .attend = attend, .merge = merge, .finish = finish,
    .project = project_low_rank, .change = change_low_rank,
};
