/* What a step computes besides products, in plain C: the reference of the other instruction sets. */
#include "attention.h"
#include "low_rank.h"

#include <math.h>

enum { LANES = 16 }; /* partial sums, which compilers turn into vectors */

static float rounded(float x, int number) {
    if (number == NUMBER_BFLOAT16) return float_of_bfloat16(bfloat16_of_float(x));
    return float_of_float16(float16_of_float(x));
}

static float widened(uint16_t bits, int number) {
    return number == NUMBER_BFLOAT16 ? float_of_bfloat16(bits) : float_of_float16(bits);
}

static void round_all(float *x, int64_t count, int number) {
    for (int64_t i = 0; i < count; i++) x[i] = rounded(x[i], number);
}

static void widen(const uint16_t *from, float *to, int64_t count, int number) {
    for (int64_t i = 0; i < count; i++) to[i] = widened(from[i], number);
}

static void narrow(const float *from, uint16_t *to, int64_t count, int number) {
    for (int64_t i = 0; i < count; i++)
        to[i] = number == NUMBER_BFLOAT16 ? bfloat16_of_float(from[i]) : float16_of_float(from[i]);
}

static float sum_of_lanes(float *sums) {
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) sums[i] += sums[i + width];
    return sums[0];
}

static float dot(const float *x, const float *y, int64_t count) {
    float sums[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++) sums[lane] += x[i + lane] * y[i + lane];
    for (; i < count; i++) sums[i % LANES] += x[i] * y[i];
    return sum_of_lanes(sums);
}

static void norm(const float *x, const uint16_t *weight, float *out, int64_t count, float epsilon, int number) {
    const float factor = 1.0f / sqrtf(dot(x, x, count) / (float)count + epsilon);
    for (int64_t i = 0; i < count; i++) out[i] = rounded(widened(weight[i], number) * rounded(x[i] * factor, number), number);
}

static void rotate(float *x, const float *cosine, const float *sine, int64_t head_dim, int number) {
    const int64_t half = head_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        const float first = x[i], second = x[i + half];
        x[i] = rounded(first * cosine[i] - second * sine[i], number);
        x[i + half] = rounded(second * cosine[i + half] + first * sine[i + half], number);
    }
}

static void gate(const float *gate, const float *up, float *out, int64_t count, int number) {
    for (int64_t i = 0; i < count; i++) {
        const float x = rounded(gate[i], number);
        out[i] = rounded(rounded(x / (1.0f + expf(-x)), number) * rounded(up[i], number), number);
    }
}

static void add(float *sum, const float *x, int64_t count, int number) {
    for (int64_t i = 0; i < count; i++) sum[i] = rounded(sum[i] + rounded(x[i], number), number);
}

static float encode(const float *from, int8_t *to, int64_t head_dim) {
    float most = 0;
    for (int64_t i = 0; i < head_dim; i++) most = fabsf(from[i]) > most ? fabsf(from[i]) : most;
    const float factor = most >= TINY ? 127.0f / most : 0.0f;
    int is_number = 1;
    for (int64_t i = 0; i < head_dim; i++) {
        const float code = from[i] * factor;
        if (code >= -127.5f && code <= 127.5f) to[i] = (int8_t)nearbyintf(code);
        else is_number = to[i] = 0;
    }
    return is_number ? most / 127.0f : NAN;
}

/* One key or value as floats, without its scale. */
static void load(const Head *head, const void *from, int64_t index, float *to) {
    const int64_t head_dim = head->head_dim;
    if (head->cache_kind == CACHE_INT8)
        for (int64_t i = 0; i < head_dim; i++) to[i] = ((const int8_t *)from)[index * head_dim + i];
    else widen((const uint16_t *)from + index * head_dim, to, head_dim, head->number);
}

/* Keys of the block that starts at `start` which a row sees. */
static int64_t seen_of_block(int64_t count, int64_t start) {
    const int64_t rest = count - start;
    return rest > KEYS_OF_BLOCK ? KEYS_OF_BLOCK : rest > 0 ? rest : 0;
}

static void attend(const Head *head, const float *queries, int64_t stride, const int64_t *counts, int64_t num_rows,
                   int64_t start, float *scores, float *parts) {
    const int64_t head_dim = head->head_dim, part = part_stride(head_dim);
    float numbers[MOST_HEAD_DIM];
    const int64_t most = seen_of_block(counts[num_rows - 1], start);
    for (int64_t j = 0; j < most; j++) {
        load(head, head->keys, start + j, numbers);
        const float scaling = head->scaling * (head->cache_kind == CACHE_INT8 ? head->key_scales[start + j] : 1.0f);
        for (int64_t row = 0; row < num_rows; row++) {
            const float distance = (float)(start + j - (counts[row] - 1));
            scores[row * KEYS_OF_BLOCK + j] = dot(queries + row * stride, numbers, head_dim) * scaling + head->slope * distance;
        }
    }
    for (int64_t row = 0; row < num_rows; row++) {
        const int64_t seen = seen_of_block(counts[row], start);
        float *own = scores + row * KEYS_OF_BLOCK, *sums = parts + row * part;
        float greatest = -INFINITY, total = 0;
        for (int64_t j = 0; j < seen; j++) greatest = own[j] > greatest ? own[j] : greatest;
        for (int64_t j = 0; j < seen; j++) total += own[j] = expf(own[j] - greatest);
        for (int64_t i = 0; i < head_dim; i++) sums[i] = 0;
        sums[head_dim] = greatest;
        sums[head_dim + 1] = total;
    }
    for (int64_t j = 0; j < most; j++) {
        load(head, head->values, start + j, numbers);
        const float scale = head->cache_kind == CACHE_INT8 ? head->value_scales[start + j] : 1.0f;
        for (int64_t row = 0; row < num_rows; row++) {
            if (j >= seen_of_block(counts[row], start)) continue;
            const float weight = scores[row * KEYS_OF_BLOCK + j] * scale;
            float *sums = parts + row * part;
            for (int64_t i = 0; i < head_dim; i++) sums[i] += weight * numbers[i];
        }
    }
}

static void merge(float *parts, const float *block, int64_t num_rows, int64_t head_dim) {
    const int64_t part = part_stride(head_dim);
    for (int64_t row = 0; row < num_rows; row++) {
        float *sums = parts + row * part;
        const float *more = block + row * part;
        const float greatest = sums[head_dim] > more[head_dim] ? sums[head_dim] : more[head_dim];
        if (more[head_dim + 1] == 0) continue; /* the row sees nothing of the block */
        const float old = expf(sums[head_dim] - greatest), new = expf(more[head_dim] - greatest);
        for (int64_t i = 0; i < head_dim; i++) sums[i] = sums[i] * old + more[i] * new;
        sums[head_dim + 1] = sums[head_dim + 1] * old + more[head_dim + 1] * new;
        sums[head_dim] = greatest;
    }
}

static void finish(const float *part, float *out, int64_t head_dim, int number) {
    for (int64_t i = 0; i < head_dim; i++) out[i] = rounded(part[i] / part[head_dim + 1], number);
}

const StepFunctions step_functions_plain = {
    .round = round_all, .widen = widen, .norm = norm, .rotate = rotate, .gate = gate, .add = add, .narrow = narrow,
    .encode = encode, .attend = attend, .merge = merge, .finish = finish,
    .project = project_low_rank, .change = change_low_rank,
};
