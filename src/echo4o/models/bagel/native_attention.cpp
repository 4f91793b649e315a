// Attention without a mask, fp32, AVX-512: see native_attention.py, which compiles this file.
//
// Rows (queries of all heads that share keys) are taken ROWS at a time over KEYS keys at a time, so
// that their scores stay in the first cache. HEAD, the values per head, comes from outside.
#include <immintrin.h>

#include <cmath>
#include <cstdint>

namespace {

constexpr int WIDTH = 16;         // values of a register
constexpr int ROWS = 8, WIDE = 3;  // ROWS x WIDE sums fill 24 of the 32 registers
constexpr int PANEL = WIDE * WIDTH;
constexpr int KEYS = 14 * PANEL;  // ROWS x KEYS scores are 21 KiB
constexpr int COLUMNS = HEAD % (2 * WIDTH) == 0 ? 2 : 1;  // registers of values summed at once
constexpr float LOG2_E = 1.44269504f;
static_assert(HEAD % WIDTH == 0);

struct Heads {
    float *data;
    int64_t head, token;  // strides
    float *at(int64_t h, int64_t t) const { return data + h * head + t * token; }
};

// 2^x: a polynomial for what is behind the point (Chebyshev's nodes, relative error 1e-7). For
// minus infinity that part is no number, and scalef gives zero, as it must.
inline __m512 power_of_two(__m512 x) {
    constexpr float c[] = {1.00000008f,   0.693147207f, 0.240221074f,
                           0.0555032721f, 0.0096760371f, 0.00134004322f};
    const __m512 whole = _mm512_roundscale_ps(x, 0), part = x - whole;
    __m512 sum = _mm512_set1_ps(c[5]);
    for (int i = 4; i >= 0; --i) sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(c[i]));
    return _mm512_scalef_ps(sum, whole);
}

// Keys as panels (HEAD, PANEL), so that a register holds one value of WIDTH keys; the end is zero.
void transpose(const Heads &key, int64_t head, int64_t first, int64_t keys, float *panel) {
    for (int64_t j = 0; j < PANEL; ++j)
        for (int d = 0; d < HEAD; ++d)
            panel[d * PANEL + j] = first + j < keys ? key.at(head, first + j)[d] : 0.0f;
}

// Scores of ROWS queries with the first `keys` of a panel, minus infinity behind them.
inline void score(const float (*query)[HEAD], const float *panel, int64_t keys,
                  float (*scores)[KEYS], __m512 *largest) {
    __m512 sums[ROWS][WIDE] = {};
    for (int d = 0; d < HEAD; ++d) {
        __m512 k[WIDE];
        for (int c = 0; c < WIDE; ++c) k[c] = _mm512_loadu_ps(panel + d * PANEL + c * WIDTH);
        for (int r = 0; r < ROWS; ++r)
            for (int c = 0; c < WIDE; ++c)
                sums[r][c] = _mm512_fmadd_ps(_mm512_set1_ps(query[r][d]), k[c], sums[r][c]);
    }
    const __m512 never = _mm512_set1_ps(-INFINITY);
    for (int c = 0; c < WIDE; ++c) {
        const int64_t rest = keys - c * WIDTH;
        const __mmask16 seen = rest >= WIDTH ? 0xffff : rest <= 0 ? 0 : (1 << rest) - 1;
        for (int r = 0; r < ROWS; ++r) {
            const __m512 s = _mm512_mask_mov_ps(never, seen, sums[r][c]);
            _mm512_storeu_ps(scores[r] + c * WIDTH, s);
            largest[r] = _mm512_max_ps(largest[r], s);
        }
    }
}

// Adds the values of `keys` keys, weighted, to what is mixed already.
inline void mix(const float (*weights)[KEYS], const Heads &value, int64_t head, int64_t first,
                int64_t keys, float (*mixed)[HEAD]) {
    for (int column = 0; column < HEAD; column += COLUMNS * WIDTH) {
        __m512 sums[ROWS][COLUMNS];
        for (int r = 0; r < ROWS; ++r)
            for (int c = 0; c < COLUMNS; ++c)
                sums[r][c] = _mm512_loadu_ps(mixed[r] + column + c * WIDTH);
        const float *v = value.at(head, first) + column;
        for (int64_t j = 0; j < keys; ++j, v += value.token)
            for (int r = 0; r < ROWS; ++r)
                for (int c = 0; c < COLUMNS; ++c)
                    sums[r][c] = _mm512_fmadd_ps(_mm512_set1_ps(weights[r][j]),
                                                 _mm512_loadu_ps(v + c * WIDTH), sums[r][c]);
        for (int r = 0; r < ROWS; ++r)
            for (int c = 0; c < COLUMNS; ++c)
                _mm512_storeu_ps(mixed[r] + column + c * WIDTH, sums[r][c]);
    }
}

}  // namespace

// Queries (heads, queries, HEAD) over keys and values (kv_heads, keys, HEAD); `panels` is room for
// kv_heads x the keys, rounded up to PANEL, x HEAD values. Strides count values.
extern "C" void attend(float *q, int64_t q_head, int64_t q_token, float *k, int64_t k_head,
                       int64_t k_token, float *v, int64_t v_head, int64_t v_token, float *o,
                       int64_t o_head, int64_t o_token, float *panels, int64_t heads,
                       int64_t kv_heads, int64_t queries, int64_t keys, float scale, int threads) {
    const Heads query{q, q_head, q_token}, key{k, k_head, k_token}, value{v, v_head, v_token},
        out{o, o_head, o_token};
    const int64_t count = (keys + PANEL - 1) / PANEL, group = heads / kv_heads;
    const int64_t rows = group * queries, tiles = (rows + ROWS - 1) / ROWS;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int64_t i = 0; i < kv_heads * count; ++i)
            transpose(key, i / count, i % count * PANEL, keys, panels + i * PANEL * HEAD);
#pragma omp for
        for (int64_t i = 0; i < kv_heads * tiles; ++i) {
            const int64_t head = i / tiles, start = i % tiles * ROWS;
            alignas(64) float scores[ROWS][KEYS], mixed[ROWS][HEAD] = {}, asked[ROWS][HEAD] = {};
            float largest[ROWS], total[ROWS] = {};
            for (int r = 0; r < ROWS; ++r) {
                largest[r] = -INFINITY;
                const int64_t row = start + r;
                if (row >= rows) continue;
                const float *from = query.at(head * group + row / queries, row % queries);
                for (int d = 0; d < HEAD; ++d) asked[r][d] = from[d] * scale * LOG2_E;
            }
            for (int64_t first = 0; first < keys; first += KEYS) {
                const int64_t here = keys - first < KEYS ? keys - first : KEYS;
                __m512 found[ROWS];
                for (int r = 0; r < ROWS; ++r) found[r] = _mm512_set1_ps(-INFINITY);
                const float *panel = panels + (head * count + first / PANEL) * PANEL * HEAD;
                for (int64_t j = 0; j < here; j += PANEL, panel += PANEL * HEAD)
                    score(asked, panel, here - j, (float (*)[KEYS])(scores[0] + j), found);
                for (int r = 0; r < ROWS; ++r) {
                    const float new_largest = _mm512_reduce_max_ps(found[r]);
                    if (new_largest > largest[r]) {  // what was summed so far counts less
                        const __m512 less = power_of_two(_mm512_set1_ps(largest[r] - new_largest));
                        const float factor = _mm512_cvtss_f32(less);
                        for (int d = 0; d < HEAD; ++d) mixed[r][d] *= factor;
                        total[r] *= factor;
                        largest[r] = new_largest;
                    }
                    const __m512 top = _mm512_set1_ps(largest[r]);
                    __m512 sum = _mm512_setzero_ps();
                    for (int64_t j = 0; j < here; j += WIDTH) {
                        const __m512 weight = power_of_two(_mm512_loadu_ps(scores[r] + j) - top);
                        _mm512_storeu_ps(scores[r] + j, weight);
                        sum += weight;
                    }
                    total[r] += _mm512_reduce_add_ps(sum);
                }
                mix(scores, value, head, first, here, mixed);
            }
            for (int r = 0; r < ROWS && start + r < rows; ++r) {
                const int64_t row = start + r;
                float *to = out.at(head * group + row / queries, row % queries);
                for (int d = 0; d < HEAD; ++d) to[d] = mixed[r][d] / total[r];
            }
        }
    }
}
