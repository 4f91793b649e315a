// What a picture costs on a processor with AVX-512, in fp32: see native.py, which compiles this file.
#include <immintrin.h>
#include <omp.h>

#include <cmath>
#include <cstdint>

namespace {

constexpr int64_t WIDTH = 16;      // values of a register
constexpr int ROWS = 8, WIDE = 3;  // sums of a tile: 24 of the 32 registers
constexpr int64_t PANEL = WIDE * WIDTH, PAIR = 2 * WIDTH;
constexpr int64_t KEYS = 14 * PANEL;  // ROWS x KEYS scores are 21 KiB of the first cache
constexpr int64_t HEAD = 256;         // the largest head
constexpr int64_t TILES = 32;         // of a convolution, worked on together
constexpr int64_t CHUNK = 1024;       // pixels whose sums one thread makes
constexpr int64_t RUN = 64;           // pixels that are summed in fp32
constexpr float LOG2_E = 1.44269504f;

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

inline __m512 silu(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    return x / (one + power_of_two(x * _mm512_set1_ps(-LOG2_E)));
}

// WIDTH rows of as many values -> columns: four times the rows of both halves like a zip.
inline void turn(const float *from, int64_t from_step, float *to, int64_t to_step) {
    const __m512i low =
        _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = low + _mm512_set1_epi32(8);
    __m512 rows[2][WIDTH];
    for (int i = 0; i < WIDTH; ++i) rows[0][i] = _mm512_loadu_ps(from + i * from_step);
    for (int step = 0; step < 4; ++step)
        for (int i = 0; i < WIDTH / 2; ++i) {
            const __m512 a = rows[step % 2][i], b = rows[step % 2][i + WIDTH / 2];
            rows[1 - step % 2][2 * i] = _mm512_permutex2var_ps(a, low, b);
            rows[1 - step % 2][2 * i + 1] = _mm512_permutex2var_ps(a, high, b);
        }
    for (int i = 0; i < WIDTH; ++i) _mm512_storeu_ps(to + i * to_step, rows[0][i]);
}

// COUNT rows of x times PAIR columns of a weight (width, ...).
template <int COUNT>
inline void multiply(const float *x, int64_t x_step, const float *weight, int64_t weight_step,
                     int64_t width, __m512 *left, __m512 *right) {
    for (int r = 0; r < COUNT; ++r) left[r] = right[r] = _mm512_setzero_ps();
    for (int64_t k = 0; k < width; ++k, weight += weight_step) {
        const __m512 a = _mm512_loadu_ps(weight), b = _mm512_loadu_ps(weight + WIDTH);
        for (int r = 0; r < COUNT; ++r) {
            const __m512 value = _mm512_set1_ps(x[r * x_step + k]);
            left[r] = _mm512_fmadd_ps(value, a, left[r]);
            right[r] = _mm512_fmadd_ps(value, b, right[r]);
        }
    }
}

// COUNT rows of silu(left) * right; a panel (width, PAIR) holds WIDTH columns of either weight.
template <int COUNT>
inline void gate(const float *x, int64_t x_step, const float *panel, int64_t width, float *out,
                 int64_t out_step) {
    __m512 left[COUNT], right[COUNT];
    multiply<COUNT>(x, x_step, panel, PAIR, width, left, right);
    for (int r = 0; r < COUNT; ++r)
        _mm512_storeu_ps(out + r * out_step, silu(left[r]) * right[r]);
}

struct Picture {
    const float *x;
    float *y;
    int64_t height, width, in, out;  // in and out: channels, which are next to each other
};

// B^T d B of the 4 x 4 pixels around a tile of 2 x 2, into 16 tables (TILES, in).
inline void spread(const Picture &of, int64_t top, int64_t left, float *table) {
    for (int64_t c = 0; c < of.in; c += WIDTH) {
        __m512 d[4][4], e[4][4];
        for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j) {
                const int64_t y = top + i - 1, x = left + j - 1;
                const bool inside = y >= 0 && y < of.height && x >= 0 && x < of.width;
                d[i][j] = inside ? _mm512_loadu_ps(of.x + (y * of.width + x) * of.in + c)
                                 : _mm512_setzero_ps();
            }
        for (int j = 0; j < 4; ++j) {
            e[0][j] = d[0][j] - d[2][j], e[1][j] = d[1][j] + d[2][j];
            e[2][j] = d[2][j] - d[1][j], e[3][j] = d[1][j] - d[3][j];
        }
        const int64_t step = TILES * of.in;
        for (int i = 0; i < 4; ++i) {
            float *to = table + i * 4 * step + c;
            _mm512_storeu_ps(to, e[i][0] - e[i][2]);
            _mm512_storeu_ps(to + step, e[i][1] + e[i][2]);
            _mm512_storeu_ps(to + 2 * step, e[i][2] - e[i][1]);
            _mm512_storeu_ps(to + 3 * step, e[i][1] - e[i][3]);
        }
    }
}

// A^T m A + bias: 16 tables (TILES, out) -> the pixels of a tile that are in the picture.
inline void gather(const Picture &of, int64_t top, int64_t left, const float *table,
                   const float *bias) {
    const int64_t step = TILES * of.out;
    for (int64_t c = 0; c < of.out; c += WIDTH) {
        __m512 e[2][4];
        for (int j = 0; j < 4; ++j) {
            __m512 m[4];
            for (int i = 0; i < 4; ++i) m[i] = _mm512_loadu_ps(table + (i * 4 + j) * step + c);
            e[0][j] = m[0] + m[1] + m[2], e[1][j] = m[1] - m[2] - m[3];
        }
        const __m512 b = _mm512_loadu_ps(bias + c);
        for (int64_t i = 0; i < 2 && top + i < of.height; ++i) {
            float *to = of.y + ((top + i) * of.width + left) * of.out + c;
            _mm512_storeu_ps(to, e[i][0] + e[i][1] + e[i][2] + b);
            if (left + 1 < of.width)
                _mm512_storeu_ps(to + of.out, e[i][1] - e[i][2] - e[i][3] + b);
        }
    }
}

struct Heads {
    float *data;
    int64_t head, token;  // strides
    float *at(int64_t h, int64_t t) const { return data + h * head + t * token; }
};

// Keys as a panel (size, PANEL), so that a register holds one value of WIDTH keys; the end is zero.
void transpose(const Heads &key, int64_t size, int64_t head, int64_t first, int64_t keys,
               float *panel) {
    for (int64_t j = 0; j < PANEL; j += WIDTH)
        for (int64_t d = 0; d < size; d += WIDTH) {
            float *to = panel + d * PANEL + j;
            if (first + j + WIDTH <= keys) {
                turn(key.at(head, first + j) + d, key.token, to, PANEL);
                continue;
            }
            for (int64_t i = 0; i < WIDTH; ++i)
                for (int64_t e = 0; e < WIDTH; ++e)
                    to[e * PANEL + i] = first + j + i < keys ? key.at(head, first + j + i)[d + e] : 0;
        }
}

// Scores of ROWS queries with the first `keys` of a panel, minus infinity behind them.
inline void score(const float (*query)[HEAD], int64_t size, const float *panel, int64_t keys,
                  float (*scores)[KEYS], __m512 *largest) {
    __m512 sums[ROWS][WIDE] = {};
    for (int64_t d = 0; d < size; ++d) {
        __m512 k[WIDE];
        for (int c = 0; c < WIDE; ++c) k[c] = _mm512_loadu_ps(panel + d * PANEL + c * WIDTH);
        for (int r = 0; r < ROWS; ++r)
            for (int c = 0; c < WIDE; ++c)
                sums[r][c] = _mm512_fmadd_ps(_mm512_set1_ps(query[r][d]), k[c], sums[r][c]);
    }
    if (keys < PANEL)
        for (int c = 0; c < WIDE; ++c) {
            const int64_t rest = keys - c * WIDTH;
            const __mmask16 seen = rest >= WIDTH ? 0xffff : rest <= 0 ? 0 : (1 << rest) - 1;
            for (int r = 0; r < ROWS; ++r)
                sums[r][c] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, sums[r][c]);
        }
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < WIDE; ++c) {
            _mm512_storeu_ps(scores[r] + c * WIDTH, sums[r][c]);
            largest[r] = _mm512_max_ps(largest[r], sums[r][c]);
        }
}

// Adds COLUMNS registers of the values of `keys` keys, weighted, to what is mixed already.
template <int COLUMNS>
inline void mix(const float (*weights)[KEYS], const float *value, int64_t step, int64_t keys,
                float *mixed) {
    __m512 sums[ROWS][COLUMNS];
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < COLUMNS; ++c)
            sums[r][c] = _mm512_loadu_ps(mixed + r * HEAD + c * WIDTH);
    for (int64_t j = 0; j < keys; ++j, value += step)
        for (int r = 0; r < ROWS; ++r)
            for (int c = 0; c < COLUMNS; ++c)
                sums[r][c] = _mm512_fmadd_ps(_mm512_set1_ps(weights[r][j]),
                                             _mm512_loadu_ps(value + c * WIDTH), sums[r][c]);
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < COLUMNS; ++c)
            _mm512_storeu_ps(mixed + r * HEAD + c * WIDTH, sums[r][c]);
}

}  // namespace

// silu(x left^T) * (x right^T): x is (rows, width), both weights (columns, width); `panels` is room
// for PAIR x width values a thread. Width and columns are multiples of WIDTH.
extern "C" void gated(const float *x, int64_t x_step, const float *left, const float *right,
                      float *out, float *panels, int64_t rows, int64_t width, int64_t columns,
                      int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t column = 0; column < columns; column += WIDTH) {
        float *panel = panels + omp_get_thread_num() * PAIR * width, *to = out + column;
        for (int64_t k = 0; k < width; k += WIDTH) {
            turn(left + column * width + k, width, panel + k * PAIR, PAIR);
            turn(right + column * width + k, width, panel + k * PAIR + WIDTH, PAIR);
        }
        int64_t r = 0;
        for (; r + ROWS <= rows; r += ROWS)
            gate<ROWS>(x + r * x_step, x_step, panel, width, to + r * columns, columns);
        for (; r < rows; ++r) gate<1>(x + r * x_step, x_step, panel, width, to + r * columns, columns);
    }
}

// 3 x 3 convolution of one picture (height, width, in) with a border of zeros, by Winograd's
// F(2x2, 3x3): `weight` is (16, in, out), G g G^T; `scratch` is room for 16 x TILES x (in + out)
// values a thread. Channels in are a multiple of WIDTH, channels out of PAIR.
extern "C" void convolve(const float *x, const float *weight, const float *bias, float *y,
                         float *scratch, int64_t height, int64_t width, int64_t in, int64_t out,
                         int threads) {
    const Picture of{x, y, height, width, in, out};
    const int64_t across = (width + 1) / 2, total = (height + 1) / 2 * across;
#pragma omp parallel for num_threads(threads)
    for (int64_t first = 0; first < total; first += TILES) {
        float *around = scratch + omp_get_thread_num() * 16 * TILES * (in + out);
        float *made = around + 16 * TILES * in;
        const int64_t end = first + TILES < total ? first + TILES : total;
        for (int64_t t = first; t < end; ++t)
            spread(of, t / across * 2, t % across * 2, around + (t - first) * in);
        for (int64_t k = 0; k < 16; ++k)
            for (int64_t column = 0; column < out; column += PAIR)
                for (int64_t t = 0; t < end - first; t += ROWS) {
                    __m512 left[ROWS], right[ROWS];
                    multiply<ROWS>(around + (k * TILES + t) * in, in,
                                   weight + k * in * out + column, out, in, left, right);
                    float *to = made + (k * TILES + t) * out + column;
                    for (int r = 0; r < ROWS; ++r, to += out) {
                        _mm512_storeu_ps(to, left[r]);
                        _mm512_storeu_ps(to + WIDTH, right[r]);
                    }
                }
        for (int64_t t = first; t < end; ++t)
            gather(of, t / across * 2, t % across * 2, made + (t - first) * out, bias);
    }
}

// Group norm of one picture (pixels, channels), then silu if `activated`; `sums` is room for
// 2 x channels values per CHUNK of pixels and once more. Channels are a multiple of WIDTH. What is
// summed is the distance from the pixel in the middle: in an even picture the squares of the values
// themselves would hide their variance.
extern "C" void normalise(const float *x, const float *weight, const float *bias, float *y,
                          double *sums, int64_t pixels, int64_t channels, int64_t groups, float eps,
                          int activated, int threads) {
    const float *middle = x + pixels / 2 * channels;
    const int64_t chunks = (pixels + CHUNK - 1) / CHUNK, both = 2 * channels;
#pragma omp parallel for num_threads(threads)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        double *sum = sums + (chunk + 1) * both, *square = sum + channels;
        for (int64_t c = 0; c < both; ++c) sum[c] = 0;
        const int64_t end = (chunk + 1) * CHUNK < pixels ? (chunk + 1) * CHUNK : pixels;
        for (int64_t run = chunk * CHUNK; run < end; run += RUN)
            for (int64_t c = 0; c < channels; c += WIDTH) {
                __m512 s = _mm512_setzero_ps(), q = s;
                const __m512 from = _mm512_loadu_ps(middle + c);
                for (int64_t p = run; p < run + RUN && p < end; ++p) {
                    const __m512 off = _mm512_loadu_ps(x + p * channels + c) - from;
                    s += off;
                    q = _mm512_fmadd_ps(off, off, q);
                }
                for (int64_t i = 0; i < WIDTH; ++i) sum[c + i] += s[i], square[c + i] += q[i];
            }
    }
    for (int64_t c = 0; c < both; ++c) sums[c] = 0;
    for (int64_t chunk = 1; chunk <= chunks; ++chunk)
        for (int64_t c = 0; c < both; ++c) sums[c] += sums[chunk * both + c];
    // Per channel, in the place of its sums: what distances are multiplied with, and what is added.
    const int64_t size = channels / groups;
    for (int64_t first = 0; first < channels; first += size) {
        double mean = 0, variance = 0;
        for (int64_t c = first; c < first + size; ++c) mean += middle[c] + sums[c] / pixels;
        mean /= size;
        for (int64_t c = first; c < first + size; ++c) {
            const double off = sums[c] / pixels, apart = middle[c] + off - mean;
            variance += sums[channels + c] / pixels - off * off + apart * apart;
        }
        const double factor = 1 / std::sqrt(std::fmax(variance / size, 0) + eps);
        for (int64_t c = first; c < first + size; ++c) {
            sums[c] = weight[c] * factor;
            sums[channels + c] = bias[c] + (middle[c] - mean) * sums[c];
        }
    }
    float *factors = (float *)(sums + both);  // the chunks' sums are done with
    for (int64_t c = 0; c < both; ++c) factors[c] = sums[c];
#pragma omp parallel for num_threads(threads)
    for (int64_t p = 0; p < pixels; ++p)
        for (int64_t c = 0; c < channels; c += WIDTH) {
            const __m512 off = _mm512_loadu_ps(x + p * channels + c) - _mm512_loadu_ps(middle + c);
            const __m512 made = _mm512_fmadd_ps(off, _mm512_loadu_ps(factors + c),
                                                _mm512_loadu_ps(factors + channels + c));
            _mm512_storeu_ps(y + p * channels + c, activated ? silu(made) : made);
        }
}

// Queries (heads, queries, size) over keys and values (kv_heads, keys, size); `panels` is room for
// kv_heads x the keys, rounded up to PANEL, x size values. Strides count values. Queries of the
// heads that share keys are taken ROWS at a time over KEYS keys at a time.
extern "C" void attend(float *q, int64_t q_head, int64_t q_token, float *k, int64_t k_head,
                       int64_t k_token, float *v, int64_t v_head, int64_t v_token, float *o,
                       int64_t o_head, int64_t o_token, float *panels, int64_t heads,
                       int64_t kv_heads, int64_t queries, int64_t keys, int64_t size, float scale,
                       int threads) {
    const Heads query{q, q_head, q_token}, key{k, k_head, k_token}, value{v, v_head, v_token},
        out{o, o_head, o_token};
    const int64_t count = (keys + PANEL - 1) / PANEL, group = heads / kv_heads;
    const int64_t rows = group * queries, tiles = (rows + ROWS - 1) / ROWS;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int64_t i = 0; i < kv_heads * count; ++i)
            transpose(key, size, i / count, i % count * PANEL, keys, panels + i * PANEL * size);
#pragma omp for
        for (int64_t i = 0; i < kv_heads * tiles; ++i) {
            const int64_t head = i / tiles, start = i % tiles * ROWS;
            alignas(64) float scores[ROWS][KEYS], mixed[ROWS][HEAD], asked[ROWS][HEAD];
            float largest[ROWS], total[ROWS] = {};
            for (int r = 0; r < ROWS; ++r) {
                largest[r] = -INFINITY;
                const int64_t row = start + r < rows ? start + r : rows - 1;
                const float *from = query.at(head * group + row / queries, row % queries);
                for (int64_t d = 0; d < size; ++d) {
                    asked[r][d] = from[d] * scale * LOG2_E;
                    mixed[r][d] = 0;
                }
            }
            for (int64_t first = 0; first < keys; first += KEYS) {
                const int64_t here = keys - first < KEYS ? keys - first : KEYS;
                __m512 found[ROWS];
                for (int r = 0; r < ROWS; ++r) found[r] = _mm512_set1_ps(-INFINITY);
                const float *panel = panels + (head * count + first / PANEL) * PANEL * size;
                for (int64_t j = 0; j < here; j += PANEL, panel += PANEL * size)
                    score(asked, size, panel, here - j, (float (*)[KEYS])(scores[0] + j), found);
                for (int r = 0; r < ROWS; ++r) {
                    const float new_largest = _mm512_reduce_max_ps(found[r]);
                    if (new_largest > largest[r]) {  // what was summed so far counts less
                        const __m512 less = power_of_two(_mm512_set1_ps(largest[r] - new_largest));
                        const float factor = _mm512_cvtss_f32(less);
                        for (int64_t d = 0; d < size; ++d) mixed[r][d] *= factor;
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
                const float *values = value.at(head, first);
                int64_t column = 0;
                for (; column + PAIR <= size; column += PAIR)
                    mix<2>(scores, values + column, value.token, here, mixed[0] + column);
                if (column < size)
                    mix<1>(scores, values + column, value.token, here, mixed[0] + column);
            }
            for (int r = 0; r < ROWS && start + r < rows; ++r) {
                const int64_t row = start + r;
                float *to = out.at(head * group + row / queries, row % queries);
                for (int64_t d = 0; d < size; ++d) to[d] = mixed[r][d] / total[r];
            }
        }
    }
}
