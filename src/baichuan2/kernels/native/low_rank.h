/* Low-rank changes of weights (adapters), computed beside their products; included by each instruction set's attention
 * file, whose compiler flags make vectors of these loops. Sums are taken in one order, so bits are the same everywhere.
 */
#ifndef BAICHUAN2_LOW_RANK_H
#define BAICHUAN2_LOW_RANK_H

#include "step.h"

enum { LOW_RANK_SUMS = 32, LOW_RANK_OUTPUTS = 64 };

/* projected (R,) = down (R, K) times inputs (K,) */
static void project_low_rank(const LowRank *change, const float *inputs, int64_t num_inputs, float *projected) {
    const int64_t whole = num_inputs / LOW_RANK_SUMS * LOW_RANK_SUMS;
    for (int64_t r = 0; r < change->rank; r++) {
        const float *down = change->down + r * num_inputs;
        float sums[LOW_RANK_SUMS] = {0}, total = 0;
        for (int64_t i = 0; i < whole; i += LOW_RANK_SUMS)
            for (int j = 0; j < LOW_RANK_SUMS; j++) sums[j] += down[i + j] * inputs[i + j];
        for (int j = 0; j < LOW_RANK_SUMS; j++) total += sums[j];
        for (int64_t i = whole; i < num_inputs; i++) total += down[i] * inputs[i];
        projected[r] = total;
    }
}

/* Outputs `first` ... `last` - 1 of the weight, in `out`, become those of the changed weight. */
static void change_low_rank(const LowRank *change, const float *projected, int64_t num_outputs, int64_t first,
                            int64_t last, float *out) {
    for (int64_t at = first; at < last; at += LOW_RANK_OUTPUTS) {
        const int64_t count = last - at < LOW_RANK_OUTPUTS ? last - at : LOW_RANK_OUTPUTS;
        float sums[LOW_RANK_OUTPUTS] = {0};
        for (int64_t r = 0; r < change->rank; r++) {
            const float *up = change->up + r * num_outputs + at;
            const float factor = projected[r];
            if (count == LOW_RANK_OUTPUTS)
                for (int i = 0; i < LOW_RANK_OUTPUTS; i++) sums[i] += factor * up[i];
            else
                for (int64_t i = 0; i < count; i++) sums[i] += factor * up[i];
        }
        for (int64_t i = 0; i < count; i++) {
            const float sum = out[at - first + i] + sums[i];
            out[at - first + i] = change->gain ? sum * change->gain[at + i] : sum;
        }
    }
}

#endif
