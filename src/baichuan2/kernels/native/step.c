/* The stages of a step and how threads share them. One parallel region for a whole step; four barriers a layer:
 *
 *   heads   norm; queries, keys and values of a head, rotation, cache, attention, by whoever takes the head
 *   output  product with the mixed values, added to the residual stream
 *   gate    norm; silu(gate) * up, the same outputs of both by the same thread
 *   down    product, added to the residual stream
 *
 * Work is taken from a counter in pieces, so that a thread held up by another process takes fewer. With few rows each
 * thread norms the inputs of a product and brings them into its order for itself, which costs less than two more
 * barriers. Where heads are too few for the threads and the context is long, attention is a stage of its own, shared by
 * blocks of keys.
 */
#include "attention.h"
#include "barrier.h"

#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    LINE = 64,
    ROWS_PREPARED_ALONE = 2,     /* up to so many rows every thread norms and prepares all inputs for itself */
    CHUNK_BYTES = 256 * 1024,    /* of weights taken at once: long streams, yet pieces enough for all threads */
    MOST_CHUNK = 256,            /* outputs taken at once */
    CHUNKS_OF_THREAD = 8,        /* at least, where there are outputs enough */
    OUTPUTS_AT_ONCE = 16,        /* chunks are multiples of what kernels compute at once */
    STAGES_OF_LAYER = 6,
    HEADS_OF_THREAD = 4,         /* fewer heads for each thread: attention becomes a stage of its own */
    WEIGHTS_TOGETHER = 2,        /* at most, that share their inputs: gate and up */
    NO_WEIGHT = -1,
};

typedef struct {
    int64_t residual, mixed, active, queries, parts, normed, prepared, projected, counters; /* shared, from its start */
    int64_t own_normed, own_prepared, own_projected, outputs, scores, block, sums, scratch; /* of a thread */
    int64_t shared_size, thread_size;
} Layout;

typedef struct {
    int64_t begin, end; /* rows */
} Group;

typedef struct {
    const StepModel *model;
    const StepRows *rows;
    const StepFunctions *functions;
    int threads, num_groups, is_by_blocks, is_prepared_alone;
    Layout layout;
    char *memory;
    Group groups[MOST_ROWS]; /* rows of the same sequence */
    int64_t counts[MOST_ROWS]; /* keys that a row sees */
    Barrier barrier;
} Step;

typedef struct {
    Step *step;
    char *memory;
    int index, stage;
    int64_t layer;
} Thread;

static int64_t placed(int64_t *size, int64_t bytes) {
    const int64_t at = *size;
    *size += (bytes + LINE - 1) / LINE * LINE;
    return at;
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t num_blocks(int64_t count) { return (count + KEYS_OF_BLOCK - 1) / KEYS_OF_BLOCK; }

static int is_by_blocks(const StepModel *model, int threads) {
    return threads > 1 && model->num_heads < (int64_t)HEADS_OF_THREAD * threads;
}

static int is_prepared_alone(int64_t num_rows, int threads) { return num_rows <= ROWS_PREPARED_ALONE || threads == 1; }

static Layout layout_of(const StepModel *model, int64_t num_rows, int64_t capacity, int threads) {
    const int64_t hidden = model->hidden_size, head_dim = model->head_dim, floats = num_rows * sizeof(float);
    int64_t room = rows_room(&model->head, num_rows), scratch = rows_scratch(&model->head);
    for (int64_t i = 0; i < model->num_layers; i++) {
        const StepLayer *layer = &model->layers[i];
        const Weight *weights[] = {&layer->packed, &layer->output, &layer->gate, &layer->up, &layer->down};
        for (int w = 0; w < 5; w++) {
            room = larger(room, rows_room(weights[w], num_rows));
            scratch = larger(scratch, rows_scratch(weights[w]));
        }
    }
    Layout layout = {0};
    layout.residual = placed(&layout.shared_size, floats * hidden);
    layout.mixed = placed(&layout.shared_size, floats * hidden);
    layout.active = placed(&layout.shared_size, floats * model->inner_size);
    if (is_by_blocks(model, threads)) {
        layout.queries = placed(&layout.shared_size, floats * hidden);
        layout.parts = placed(&layout.shared_size,
                              floats * part_stride(head_dim) * model->num_heads * num_blocks(capacity));
    }
    const int is_alone = is_prepared_alone(num_rows, threads);
    layout.normed = placed(&layout.shared_size, is_alone ? 0 : floats * hidden);
    layout.prepared = placed(&layout.shared_size, is_alone ? 0 : room);
    const int64_t projected = floats * WEIGHTS_TOGETHER * model->most_rank;
    layout.projected = placed(&layout.shared_size, is_alone ? 0 : projected);
    layout.counters = placed(&layout.shared_size, (model->num_layers * STAGES_OF_LAYER + 1) * sizeof(atomic_int));
    layout.own_normed = placed(&layout.thread_size, is_alone ? floats * hidden : 0);
    layout.own_prepared = placed(&layout.thread_size, is_alone ? room : 0);
    layout.own_projected = placed(&layout.thread_size, is_alone ? projected : 0);
    layout.outputs = placed(&layout.thread_size, floats * larger(3 * head_dim, 2 * MOST_CHUNK));
    layout.scores = placed(&layout.thread_size, floats * KEYS_OF_BLOCK);
    layout.block = placed(&layout.thread_size, floats * part_stride(head_dim));
    layout.sums = placed(&layout.thread_size, floats * part_stride(head_dim));
    layout.scratch = placed(&layout.thread_size, scratch);
    return layout;
}

int64_t baichuan2_step_room(const StepModel *model, int64_t num_rows, int64_t capacity, int threads) {
    int64_t room = 0; /* fewer rows may need more: they are prepared by each thread */
    const int64_t counts[] = {num_rows, smaller(num_rows, ROWS_PREPARED_ALONE)};
    for (int i = 0; i < 2; i++) {
        const Layout layout = layout_of(model, counts[i], capacity, threads);
        room = larger(room, layout.shared_size + threads * layout.thread_size);
    }
    return room;
}

int64_t baichuan2_step_size(void) {
    return sizeof(StepModel) + sizeof(StepLayer) + sizeof(StepRows) + sizeof(StepCache) + sizeof(LowRank);
}

static float *shared(const Step *step, int64_t offset) { return (float *)(step->memory + offset); }

static float *own(const Thread *thread, int64_t offset) { return (float *)(thread->memory + offset); }

/* The next piece of the present stage. */
static int64_t take(Thread *thread) {
    atomic_int *counters = (atomic_int *)(thread->step->memory + thread->step->layout.counters);
    return atomic_fetch_add_explicit(&counters[thread->stage], 1, memory_order_relaxed);
}

static void end_stage(Thread *thread) {
    thread->stage++;
    barrier_wait(&thread->step->barrier, thread->step->threads);
}

/* What the adapter of a row makes of a weight of the present layer; NULL: nothing. */
static const LowRank *change_of(const Thread *thread, int64_t row, int weight) {
    const StepModel *model = thread->step->model;
    const int64_t *adapter = thread->step->rows->adapter;
    if (!adapter || adapter[row] < 0) return NULL;
    const LowRank *change =
        &model->changes[(adapter[row] * model->num_layers + thread->layer) * WEIGHTS_OF_LAYER + weight];
    return change->down ? change : NULL;
}

static float *projected_of(const Thread *thread, int64_t row, int number) {
    const Step *step = thread->step;
    const Layout *layout = &step->layout;
    float *all = step->is_prepared_alone ? own(thread, layout->own_projected) : shared(step, layout->projected);
    return all + (row * WEIGHTS_TOGETHER + number) * step->model->most_rank;
}

/* Inputs (num_rows, K) in the order of the weight's kernel: the thread's own, or, after a barrier, that of all; and
 * their products with what adapters have for the `count` weights from `first` on. */
static const void *prepare(Thread *thread, const Weight *weight, const float *inputs, int64_t num_rows, int first,
                           int count) {
    Step *step = thread->step;
    const int is_alone = step->is_prepared_alone;
    for (int64_t item = is_alone ? 0 : thread->index; step->rows->adapter && item < num_rows * count;
         item += is_alone ? 1 : step->threads) {
        const LowRank *change = change_of(thread, item / count, first + (int)(item % count));
        if (change)
            step->functions->project(change, inputs + item / count * weight->num_inputs, weight->num_inputs,
                                     projected_of(thread, item / count, (int)(item % count)));
    }
    if (is_alone) {
        void *target = thread->memory + step->layout.own_prepared;
        rows_prepare(weight, inputs, num_rows, target, 0, 1);
        return target;
    }
    void *target = step->memory + step->layout.prepared;
    rows_prepare(weight, inputs, num_rows, target, thread->index, step->threads);
    barrier_wait(&step->barrier, step->threads);
    return target;
}

/* Outputs `first` ... `last` - 1 of all rows, each with what its adapter makes of the weight, which is `number` in its
 * layer and `which` of those prepared together. */
static void multiply(Thread *thread, const Weight *weight, const void *prepared, int number, int which, int64_t first,
                     int64_t last, float *out, int64_t stride) {
    const Step *step = thread->step;
    const int64_t num_rows = step->rows->num_rows;
    rows_multiply(weight, prepared, num_rows, first, last, out, stride, thread->memory + step->layout.scratch);
    for (int64_t row = 0; step->rows->adapter && row < num_rows; row++) {
        const LowRank *change = change_of(thread, row, number);
        if (change)
            step->functions->change(change, projected_of(thread, row, which), weight->num_outputs, first, last,
                                    out + row * stride);
    }
}

/* Rows of the residual stream after a norm, those of `rows`, or the first where that is NULL: few of them by each thread
 * for itself; of many, each thread computes some, and waits for the others. */
static const float *normalized(Thread *thread, const uint16_t *weight, const int64_t *rows, int64_t num_rows) {
    Step *step = thread->step;
    const StepModel *model = step->model;
    const int64_t hidden = model->hidden_size, is_alone = step->is_prepared_alone;
    const float *residual = shared(step, step->layout.residual);
    float *out = is_alone ? own(thread, step->layout.own_normed) : shared(step, step->layout.normed);
    for (int64_t row = is_alone ? 0 : thread->index; row < num_rows; row += is_alone ? 1 : step->threads)
        step->functions->norm(residual + (rows ? rows[row] : row) * hidden, weight, out + row * hidden, hidden,
                              model->epsilon, model->number);
    if (!is_alone) barrier_wait(&step->barrier, step->threads);
    return out;
}

/* Where a key of a sequence stands in the buffers of a layer, counted in keys. */
static int64_t key_at(const Step *step, int64_t sequence, int64_t head, int64_t place) {
    const StepRows *rows = step->rows;
    const int64_t heads = step->model->num_heads;
    if (!rows->pages) return (sequence * heads + head) * rows->capacity + place;
    const int64_t page = rows->pages[sequence * num_blocks(rows->capacity) + place / KEYS_OF_BLOCK];
    return (page * heads + head) * KEYS_OF_BLOCK + place % KEYS_OF_BLOCK;
}

/* As number arithmetic, which may leave the buffer: what is found there is never read. */
static const void *moved(const void *buffer, int64_t bytes) {
    return (const void *)((uintptr_t)buffer + (uintptr_t)bytes);
}

/* The head as the rows of a group see it, to attend to the block of keys from `start` on, counted from the first that
 * they see. The other blocks may lie anywhere: its pointers are right for this block alone. */
static Head head_of(const Step *step, const StepCache *cache, int64_t head, const Group *group, int64_t start) {
    const StepModel *model = step->model;
    const int64_t size = model->head_dim * (model->cache_kind == CACHE_INT8 ? 1 : 2);
    const int64_t sequence = step->rows->sequence[group->begin], place = step->rows->first[group->begin] + start;
    const int64_t first = key_at(step, sequence, head, place) - start;
    Head found = {
        .keys = moved(cache->keys, first * size),
        .values = moved(cache->values, first * size),
        .head_dim = model->head_dim,
        .scaling = model->scaling,
        .slope = model->slopes ? model->slopes[head] : 0.0f,
        .number = model->number,
        .cache_kind = model->cache_kind,
    };
    if (model->cache_kind == CACHE_INT8) {
        found.key_scales = moved(cache->key_scales, first * (int64_t)sizeof(float));
        found.value_scales = moved(cache->value_scales, first * (int64_t)sizeof(float));
    }
    return found;
}

/* Puts a key or value of a row into the cache. */
static void keep(const Step *step, void *buffer, float *scales, const float *states, int64_t row, int64_t head) {
    const StepModel *model = step->model;
    const int64_t place = key_at(step, step->rows->sequence[row], head, step->rows->place[row]);
    if (model->cache_kind == CACHE_INT8)
        scales[place] = step->functions->encode(states, (int8_t *)buffer + place * model->head_dim, model->head_dim);
    else step->functions->narrow(states, (uint16_t *)buffer + place * model->head_dim, model->head_dim, model->number);
}

/* Rounds and turns the states of a head, (num_rows, 3D): queries, keys, values; puts the latter two into the cache. */
static void enter(const Step *step, const StepCache *cache, float *states, int64_t head) {
    const StepModel *model = step->model;
    const StepRows *rows = step->rows;
    const int64_t head_dim = model->head_dim;
    for (int64_t row = 0; row < rows->num_rows; row++) {
        float *query = states + row * 3 * head_dim, *key = query + head_dim, *value = key + head_dim;
        step->functions->round(query, 3 * head_dim, model->number);
        if (rows->cosine) {
            const float *cosine = rows->cosine + row * head_dim, *sine = rows->sine + row * head_dim;
            step->functions->rotate(query, cosine, sine, head_dim, model->number);
            step->functions->rotate(key, cosine, sine, head_dim, model->number);
        }
        keep(step, cache->keys, cache->key_scales, key, row, head);
        keep(step, cache->values, cache->value_scales, value, row, head);
    }
}

/* The mixed values of a head for the rows of a sequence. */
static void attend_whole(Thread *thread, const StepCache *cache, const float *queries, int64_t stride, int64_t head,
                         const Group *group) {
    const Step *step = thread->step;
    const StepModel *model = step->model;
    const int64_t num_rows = group->end - group->begin, head_dim = model->head_dim;
    const int64_t *counts = step->counts + group->begin;
    float *sums = own(thread, step->layout.sums), *block = own(thread, step->layout.block);
    float *scores = own(thread, step->layout.scores);
    for (int64_t start = 0; start < counts[num_rows - 1]; start += KEYS_OF_BLOCK) {
        const Head found = head_of(step, cache, head, group, start);
        step->functions->attend(&found, queries, stride, counts, num_rows, start, scores, start ? block : sums);
        if (start) step->functions->merge(sums, block, num_rows, head_dim);
    }
    float *mixed = shared(step, step->layout.mixed) + group->begin * model->hidden_size + head * head_dim;
    for (int64_t row = 0; row < num_rows; row++)
        step->functions->finish(sums + row * part_stride(head_dim), mixed + row * model->hidden_size, head_dim, model->number);
}

/* Where the parts of a block of a head are kept for the rows of a group. */
static float *parts_of(const Step *step, const Group *group, int64_t head, int64_t block) {
    const int64_t blocks = num_blocks(step->rows->capacity), part = part_stride(step->model->head_dim);
    const int64_t of_group = (group->end - group->begin) * part;
    return shared(step, step->layout.parts) + group->begin * step->model->num_heads * blocks * part +
           (head * blocks + block) * of_group;
}

/* Attention shared by blocks: first all blocks of all heads, then, after a barrier, what they add up to. */
static void blocks_stage(Thread *thread, const StepCache *cache) {
    const Step *step = thread->step;
    const StepModel *model = step->model;
    const int64_t head_dim = model->head_dim, hidden = model->hidden_size;
    int64_t done = 0, next = take(thread);
    for (int g = 0; g < step->num_groups; g++) {
        const Group *group = &step->groups[g];
        const int64_t num_rows = group->end - group->begin, *counts = step->counts + group->begin;
        const int64_t blocks = num_blocks(counts[num_rows - 1]), pieces = model->num_heads * blocks;
        for (; next < done + pieces; next = take(thread)) {
            const int64_t head = (next - done) / blocks, block = (next - done) % blocks;
            const Head found = head_of(step, cache, head, group, block * KEYS_OF_BLOCK);
            const float *queries = shared(step, step->layout.queries) + group->begin * hidden + head * head_dim;
            step->functions->attend(&found, queries, hidden, counts, num_rows, block * KEYS_OF_BLOCK,
                                    own(thread, step->layout.scores), parts_of(step, group, head, block));
        }
        done += pieces;
    }
    end_stage(thread);
    for (int64_t piece; (piece = take(thread)) < step->num_groups * model->num_heads;) {
        const Group *group = &step->groups[piece / model->num_heads];
        const int64_t head = piece % model->num_heads, num_rows = group->end - group->begin;
        const int64_t blocks = num_blocks(step->counts[group->end - 1]);
        float *sums = parts_of(step, group, head, 0);
        for (int64_t block = 1; block < blocks; block++)
            step->functions->merge(sums, parts_of(step, group, head, block), num_rows, head_dim);
        float *mixed = shared(step, step->layout.mixed) + group->begin * hidden + head * head_dim;
        for (int64_t row = 0; row < num_rows; row++)
            step->functions->finish(sums + row * part_stride(head_dim), mixed + row * hidden, head_dim, model->number);
    }
    end_stage(thread);
}

static void heads_stage(Thread *thread, const StepLayer *layer, const StepCache *cache) {
    const Step *step = thread->step;
    const StepModel *model = step->model;
    const int64_t num_rows = step->rows->num_rows, head_dim = model->head_dim, hidden = model->hidden_size;
    const float *normed = normalized(thread, layer->input_norm, NULL, num_rows);
    const void *prepared = prepare(thread, &layer->packed, normed, num_rows, PACKED, 1);
    float *states = own(thread, step->layout.outputs); /* (num_rows, 3D) */
    for (int64_t head; (head = take(thread)) < model->num_heads;) {
        for (int part = 0; part < 3; part++) {
            const int64_t first = part * hidden + head * head_dim;
            multiply(thread, &layer->packed, prepared, PACKED, 0, first, first + head_dim, states + part * head_dim,
                     3 * head_dim);
        }
        enter(step, cache, states, head);
        if (step->is_by_blocks) {
            float *queries = shared(step, step->layout.queries) + head * head_dim;
            for (int64_t row = 0; row < num_rows; row++)
                memcpy(queries + row * hidden, states + row * 3 * head_dim, head_dim * sizeof *queries);
            continue;
        }
        for (int g = 0; g < step->num_groups; g++)
            attend_whole(thread, cache, states + step->groups[g].begin * 3 * head_dim, 3 * head_dim, head, &step->groups[g]);
    }
    end_stage(thread);
    if (step->is_by_blocks) blocks_stage(thread, cache);
}

/* Outputs that a thread takes at once. */
static int64_t chunk_of(const Weight *weight, int threads) {
    const int64_t bits = weight->format >= FORMAT_BFLOAT16 ? 16 : weight->format == FORMAT_INT8 ? 8 : 4;
    const int64_t by_bytes = CHUNK_BYTES * 8 / (weight->num_inputs * bits);
    const int64_t by_threads = weight->num_outputs / (threads * CHUNKS_OF_THREAD);
    const int64_t chunk = smaller(smaller(by_bytes, by_threads), MOST_CHUNK) / OUTPUTS_AT_ONCE * OUTPUTS_AT_ONCE;
    return larger(chunk, OUTPUTS_AT_ONCE);
}

/* Adds the product of `inputs` (num_rows, K) to the residual stream. */
static void residual_stage(Thread *thread, const Weight *weight, int number, const float *inputs) {
    const Step *step = thread->step;
    const StepModel *model = step->model;
    const int64_t num_rows = step->rows->num_rows, hidden = model->hidden_size, chunk = chunk_of(weight, step->threads);
    const void *prepared = prepare(thread, weight, inputs, num_rows, number, 1);
    float *residual = shared(step, step->layout.residual), *out = own(thread, step->layout.outputs);
    for (int64_t first; (first = take(thread) * chunk) < hidden;) {
        const int64_t last = smaller(first + chunk, hidden);
        multiply(thread, weight, prepared, number, 0, first, last, out, chunk);
        for (int64_t row = 0; row < num_rows; row++)
            step->functions->add(residual + row * hidden + first, out + row * chunk, last - first, model->number);
    }
    end_stage(thread);
}

static void gate_stage(Thread *thread, const StepLayer *layer) {
    const Step *step = thread->step;
    const StepModel *model = step->model;
    const int64_t num_rows = step->rows->num_rows, inner = model->inner_size, chunk = chunk_of(&layer->gate, step->threads);
    const float *normed = normalized(thread, layer->middle_norm, NULL, num_rows);
    const void *prepared = prepare(thread, &layer->gate, normed, num_rows, GATE, WEIGHTS_TOGETHER);
    float *active = shared(step, step->layout.active);
    float *gate = own(thread, step->layout.outputs), *up = gate + num_rows * MOST_CHUNK;
    for (int64_t first; (first = take(thread) * chunk) < inner;) {
        const int64_t last = smaller(first + chunk, inner);
        multiply(thread, &layer->gate, prepared, GATE, 0, first, last, gate, chunk);
        multiply(thread, &layer->up, prepared, UP, 1, first, last, up, chunk);
        for (int64_t row = 0; row < num_rows; row++)
            step->functions->gate(gate + row * chunk, up + row * chunk, active + row * inner + first, last - first,
                                  model->number);
    }
    end_stage(thread);
}

static void logits_stage(Thread *thread) {
    const Step *step = thread->step;
    const StepModel *model = step->model;
    const StepRows *rows = step->rows;
    const int64_t num_rows = rows->num_wanted, chunk = chunk_of(&model->head, step->threads);
    const float *normed = normalized(thread, model->final_norm, rows->wanted, num_rows);
    const void *prepared = prepare(thread, &model->head, normed, num_rows, NO_WEIGHT, 0);
    float *out = own(thread, step->layout.outputs);
    const int64_t num_outputs = model->head.num_outputs;
    for (int64_t first; (first = take(thread) * chunk) < num_outputs;) {
        const int64_t last = smaller(first + chunk, num_outputs);
        rows_multiply(&model->head, prepared, num_rows, first, last, out, chunk, thread->memory + step->layout.scratch);
        for (int64_t row = 0; row < num_rows; row++)
            step->functions->narrow(out + row * chunk, rows->logits + row * num_outputs + first, last - first, model->number);
    }
}

static void run(Step *step, int index) {
    const StepModel *model = step->model;
    Thread thread = {step, step->memory + step->layout.shared_size + index * step->layout.thread_size, index, 0, 0};
    for (int64_t i = 0; i < model->num_layers; i++) {
        const StepLayer *layer = &model->layers[i];
        thread.layer = i;
        heads_stage(&thread, layer, &step->rows->caches[i]);
        residual_stage(&thread, &layer->output, OUTPUT, shared(step, step->layout.mixed));
        gate_stage(&thread, layer);
        residual_stage(&thread, &layer->down, DOWN, shared(step, step->layout.active));
    }
    if (step->rows->num_wanted) logits_stage(&thread);
}

static const StepFunctions *functions_of(int instructions) {
#ifdef __x86_64__
    if (instructions >= INSTRUCTIONS_AVX512) return &step_functions_avx512;
    if (instructions >= INSTRUCTIONS_AVX2) return &step_functions_avx2;
#endif
    (void)instructions;
    return &step_functions_plain;
}

void baichuan2_step(const StepModel *model, const StepRows *rows, int instructions, int threads) {
    Step step = {.model = model, .rows = rows, .threads = threads, .memory = rows->scratch};
    const int64_t num_rows = rows->num_rows;
    step.functions = functions_of((int)smaller(instructions, rows_instructions()));
    step.is_by_blocks = is_by_blocks(model, threads);
    step.is_prepared_alone = is_prepared_alone(num_rows, threads);
    step.layout = layout_of(model, num_rows, rows->capacity, threads);
    memset(step.memory + step.layout.counters, 0, (model->num_layers * STAGES_OF_LAYER + 1) * sizeof(atomic_int));
    step.functions->widen(rows->embeddings, shared(&step, step.layout.residual), num_rows * model->hidden_size, model->number);
    for (int64_t row = 0; row < num_rows; row++) {
        step.counts[row] = rows->place[row] - rows->first[row] + 1;
        if (row == 0 || rows->sequence[row] != rows->sequence[row - 1])
            step.groups[step.num_groups++] = (Group){row, row + 1};
        else step.groups[step.num_groups - 1].end = row + 1;
    }
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        step.threads = omp_get_num_threads(); /* fewer where the process may have no more */
        run(&step, omp_get_thread_num());
    }
#else
    step.threads = 1;
    run(&step, 0);
#endif
}
