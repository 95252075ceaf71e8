// LSTM and GRU over sequences of rows in packed order (sb3_pgx/ops/recurrence.py says what each function computes).
//
// TorchInductor builds this file as part of a compiled graph. sb3_pgx/engine/recurrence_lowering.py writes the constants of
// tanh before it. Matrices are row-major, and a level's rows are consecutive.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace sb3_pgx {

#if defined(__AVX512F__)
constexpr int64_t LANES = 16, MOST_ROWS = 8;
#elif defined(__AVX__)
constexpr int64_t LANES = 8, MOST_ROWS = 6;  // 16 registers: 12 sums, 2 weights and an input
#else
constexpr int64_t LANES = 4, MOST_ROWS = 8;
#endif
constexpr int64_t PANEL = 2 * LANES;

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));

// From and to any address: the compiler makes one instruction of it.
template <class T> inline T load(const float* place) {
  T x;
  std::memcpy(&x, place, sizeof(T));
  return x;
}

template <class T> inline void store(float* place, T x) { std::memcpy(place, &x, sizeof(T)); }

// Call a function for every index below n, for several at once where possible: its argument is an example of the numbers.
template <class Function> inline void for_each(int64_t n, Function function) {
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES) function(j, Lanes{});
  for (; j < n; j++) function(j, float{});
}

// tanh |x| = product · inverse = 1 − rest · inverse, as in rational_tanh of sb3_pgx/engine/graph_rewrites.py.
template <class T> struct Tanh {
  T size, product, rest, inverse;

  explicit Tanh(T x) {
    const T bound = x * 0.0f + TANH_BOUND;
    size = x < 0.0f ? -x : x;
    size = size > bound ? bound : size;
    const T square = size * size;
    const T n = size * polynomial(TANH_NUMERATOR, square), d = polynomial(TANH_DENOMINATOR, square), difference = d - n;
    product = n * d;
    rest = 0.5f * difference * difference;
    inverse = 1.0f / (product + rest);
  }

  static T polynomial(const float (&coefficients)[4], T x) {
    return ((coefficients[0] * x + coefficients[1]) * x + coefficients[2]) * x + coefficients[3];
  }
};

template <class T> inline T tanh(T x) {
  const Tanh<T> t(x);
  const T result = t.size < TANH_SMALL ? t.product * t.inverse : 1.0f - t.rest * t.inverse;
  return x < 0.0f ? -result : result;
}

// (1 + tanh(x / 2)) / 2, without cancellation for negative x.
template <class T> inline T sigmoid(T x) {
  const Tanh<T> t(0.5f * x);
  const T beyond = 0.5f * t.rest * t.inverse;
  return x < 0.0f ? beyond : 1.0f - beyond;
}

// A matrix [K, J] in panels of PANEL columns, [J / PANEL, K, PANEL], the last one filled up with zeros.
class Panels {
 public:
  const int64_t inner, columns;

  // The matrix is `weights` [K, J], or the transpose of `weights` [J, K].
  Panels(const float* weights, int64_t inner, int64_t columns, bool transposed)
      : inner(inner), columns(columns), data_(new float[(columns + PANEL - 1) / PANEL * PANEL * inner]) {
    const int64_t along = transposed ? 1 : columns, across = transposed ? inner : 1;
    float* out = data_.get();
    for (int64_t first = 0; first < columns; first += PANEL)
      for (int64_t k = 0; k < inner; k++)
        for (int64_t j = first; j < first + PANEL; j++) *out++ = j < columns ? weights[k * along + j * across] : 0.0f;
  }

  const float* panel(int64_t first) const { return data_.get() + first * inner; }

 private:
  std::unique_ptr<float[]> data_;
};

// Rows of a matrix: row i begins at data + i · stride. With a stride of 0 all rows are the same.
template <class Number> struct Rows {
  Number* data;
  int64_t stride;

  Number* operator[](int64_t i) const { return data + i * stride; }
};

// out [N, PANEL] = start + factors [N, K] · panel
template <int N>
inline void multiply(Rows<const float> factors, const float* panel, int64_t inner, Rows<const float> start, Rows<float> out) {
  Lanes sums[N][2];
  for (int i = 0; i < N; i++)
    for (int half = 0; half < 2; half++) sums[i][half] = load<Lanes>(start[i] + half * LANES);
  for (int64_t k = 0; k < inner; k++, panel += PANEL) {
    const Lanes left = load<Lanes>(panel), right = load<Lanes>(panel + LANES);
    for (int i = 0; i < N; i++) {
      const float factor = factors[i][k];
      sums[i][0] += factor * left;
      sums[i][1] += factor * right;
    }
  }
  for (int i = 0; i < N; i++)
    for (int half = 0; half < 2; half++) store(out[i] + half * LANES, sums[i][half]);
}

// The same for n rows, at most N.
template <int N>
inline void multiply_rows(int64_t n, Rows<const float> factors, const float* panel, int64_t inner, Rows<const float> start,
                          Rows<float> out) {
  if (n == N) {
    multiply<N>(factors, panel, inner, start, out);
  } else if constexpr (N > 1) {
    multiply_rows<N - 1>(n, factors, panel, inner, start, out);
  }
}

// out [n, J] = start + factors [n, K] · matrix [K, J]
void product(int64_t n, Rows<const float> factors, const Panels& matrix, Rows<const float> start, Rows<float> out) {
  for (int64_t first = 0; first < matrix.columns; first += PANEL) {
    const int64_t width = std::min(PANEL, matrix.columns - first);
    for (int64_t i = 0, rows; i < n; i += rows) {
      rows = std::min(MOST_ROWS, n - i);
      const Rows<const float> of_factors{factors[i], factors.stride}, of_start{start[i] + first, start.stride};
      const Rows<float> of_out{out[i] + first, out.stride};
      if (width == PANEL) {
        multiply_rows<MOST_ROWS>(rows, of_factors, matrix.panel(first), matrix.inner, of_start, of_out);
        continue;
      }
      float wide[MOST_ROWS * PANEL] = {};
      for (int64_t row = 0; row < rows; row++) std::copy_n(of_start[row], width, wide + row * PANEL);
      multiply_rows<MOST_ROWS>(rows, of_factors, matrix.panel(first), matrix.inner, {wide, PANEL}, {wide, PANEL});
      for (int64_t row = 0; row < rows; row++) std::copy_n(wide + row * PANEL, width, of_out[row]);
    }
  }
}

// Rows of a level: `size` rows from `first` on, which continue those from `before` on in the level before.
struct Level {
  int64_t first, size, before;
};

inline std::vector<Level> levels_of(int64_t n_rows, const int64_t* sizes) {
  std::vector<Level> levels;
  for (int64_t first = 0, before = 0; first < n_rows; first += *sizes++) {
    levels.push_back({first, *sizes, before});
    before = first;
  }
  return levels;
}

void lstm_forward(int64_t n_rows, int64_t width, const float* fed, const float* weights, const float* hidden,
                  const float* memory, const int64_t* sizes, float* record) {
  float* const after = record;
  float* const memories = after + n_rows * width;
  float* const before = memories + n_rows * width;
  float* const gates = before + n_rows * width;
  const Panels recurrent(weights, width, 4 * width, true);
  for (const Level& level : levels_of(n_rows, sizes)) {
    const float* h = level.first ? after + level.before * width : hidden;
    const float* c = level.first ? memories + level.before * width : memory;
    std::copy_n(h, level.size * width, before + level.first * width);
    const int64_t first = level.first * 4 * width;
    product(level.size, {h, width}, recurrent, {fed + first, 4 * width}, {gates + first, 4 * width});
    for (int64_t row = level.first; row < level.first + level.size; row++, c += width) {
      float* const gate = gates + row * 4 * width;
      for_each(width, [&](int64_t j, auto example) {
        using T = decltype(example);
        float* const at = gate + j;
        const T i = sigmoid(load<T>(at)), f = sigmoid(load<T>(at + width));
        const T g = tanh(load<T>(at + 2 * width)), o = sigmoid(load<T>(at + 3 * width));
        const T next = f * load<T>(c + j) + i * g;
        store(at, i), store(at + width, f), store(at + 2 * width, g), store(at + 3 * width, o);
        store(memories + row * width + j, next);
        store(after + row * width + j, o * tanh(next));
      });
    }
  }
}

void lstm_backward(int64_t n_rows, int64_t width, const float* d_outputs, const float* record, const float* weights,
                   const float* memory, const int64_t* sizes, float* d_fed) {
  const float* const memories = record + n_rows * width;
  const float* const gates = memories + 2 * n_rows * width;
  const Panels recurrent(weights, 4 * width, width, false);
  const std::vector<Level> levels = levels_of(n_rows, sizes);
  const std::vector<float> zeros(width);
  // Of the states after the level's rows, by way of later rows: zero where a sequence ends.
  std::vector<float> d_hidden(sizes[0] * width), d_memory(sizes[0] * width);
  for (auto level = levels.rbegin(); level != levels.rend(); ++level) {
    const float* c = level->first ? memories + level->before * width : memory;
    float *dh = d_hidden.data(), *dc = d_memory.data();
    for (int64_t row = level->first; row < level->first + level->size; row++, c += width, dh += width, dc += width) {
      const float* const gate = gates + row * 4 * width;
      float* const d_gate = d_fed + row * 4 * width;
      for_each(width, [&](int64_t j, auto example) {
        using T = decltype(example);
        const float* const at = gate + j;
        const T i = load<T>(at), f = load<T>(at + width), g = load<T>(at + 2 * width), o = load<T>(at + 3 * width);
        const T squashed = tanh(load<T>(memories + row * width + j));
        const T d_after = load<T>(dh + j) + load<T>(d_outputs + row * width + j);
        const T d_next = load<T>(dc + j) + d_after * o * (1.0f - squashed * squashed);
        float* const to = d_gate + j;
        store(to, d_next * g * i * (1.0f - i));
        store(to + width, d_next * load<T>(c + j) * f * (1.0f - f));
        store(to + 2 * width, d_next * i * (1.0f - g * g));
        store(to + 3 * width, d_after * squashed * o * (1.0f - o));
        store(dc + j, d_next * f);
      });
    }
    if (level->first) {
      const float* const d_gates = d_fed + level->first * 4 * width;
      product(level->size, {d_gates, 4 * width}, recurrent, {zeros.data(), 0}, {d_hidden.data(), width});
    }
  }
}

void lstm_tangent(int64_t n_rows, int64_t width, const float* tangents, const float* record, const float* weights,
                  const float* memory, const int64_t* sizes, float* after) {
  const float* const memories = record + n_rows * width;
  const float* const gates = memories + 2 * n_rows * width;
  const Panels recurrent(weights, width, 4 * width, true);
  std::unique_ptr<float[]> sums(new float[sizes[0] * 4 * width]);
  const std::vector<float> zeros(sizes[0] * width);
  std::vector<float> of_memory(sizes[0] * width);  // tangents of the cell states after the level before
  for (const Level& level : levels_of(n_rows, sizes)) {
    const float* c = level.first ? memories + level.before * width : memory;
    const float* of_h = level.first ? after + level.before * width : zeros.data();
    const Rows<const float> of_gates{tangents + level.first * 4 * width, 4 * width};
    product(level.size, {of_h, width}, recurrent, of_gates, {sums.get(), 4 * width});
    const float* moved = sums.get();
    float* of_c = of_memory.data();
    for (int64_t row = level.first; row < level.first + level.size; row++, c += width, of_c += width, moved += 4 * width) {
      for_each(width, [&](int64_t j, auto example) {
        using T = decltype(example);
        const float *const at = gates + row * 4 * width + j, *const from = moved + j;
        const T i = load<T>(at), f = load<T>(at + width), g = load<T>(at + 2 * width), o = load<T>(at + 3 * width);
        const T squashed = tanh(load<T>(memories + row * width + j));
        const T of_next = f * load<T>(of_c + j) + load<T>(c + j) * f * (1.0f - f) * load<T>(from + width) +
                          g * i * (1.0f - i) * load<T>(from) + i * (1.0f - g * g) * load<T>(from + 2 * width);
        store(of_c + j, of_next);
        store(after + row * width + j, squashed * o * (1.0f - o) * load<T>(from + 3 * width) +
                                           o * (1.0f - squashed * squashed) * of_next);
      });
    }
  }
}

void gru_forward(int64_t n_rows, int64_t width, const float* fed, const float* weights, const float* bias,
                 const float* hidden, const int64_t* sizes, float* record) {
  float* const after = record;
  float* const before = after + n_rows * width;
  float* const gates = before + n_rows * width;
  const Panels recurrent(weights, width, 3 * width, true);
  std::unique_ptr<float[]> added(new float[sizes[0] * 3 * width]);
  for (const Level& level : levels_of(n_rows, sizes)) {
    const float* h = level.first ? after + level.before * width : hidden;
    std::copy_n(h, level.size * width, before + level.first * width);
    product(level.size, {h, width}, recurrent, {bias, 0}, {added.get(), 3 * width});
    const float* add = added.get();
    for (int64_t row = level.first; row < level.first + level.size; row++, h += width, add += 3 * width) {
      for_each(width, [&](int64_t j, auto example) {
        using T = decltype(example);
        const float* const in = fed + row * 3 * width + j;
        float* const to = gates + row * 4 * width + j;
        const T r = sigmoid(load<T>(in) + load<T>(add + j)), z = sigmoid(load<T>(in + width) + load<T>(add + j + width));
        const T remembered = load<T>(add + j + 2 * width), n = tanh(load<T>(in + 2 * width) + r * remembered);
        store(to, r), store(to + width, z), store(to + 2 * width, n), store(to + 3 * width, remembered);
        store(after + row * width + j, n + z * (load<T>(h + j) - n));
      });
    }
  }
}

void gru_backward(int64_t n_rows, int64_t width, const float* d_outputs, const float* record, const float* weights,
                  const int64_t* sizes, float* d_gates) {
  const float* const before = record + n_rows * width;
  const float* const gates = before + n_rows * width;
  const Panels recurrent(weights, 3 * width, width, false);
  const std::vector<Level> levels = levels_of(n_rows, sizes);
  std::vector<float> d_hidden(sizes[0] * width);  // as in lstm_backward
  for (auto level = levels.rbegin(); level != levels.rend(); ++level) {
    float* dh = d_hidden.data();
    for (int64_t row = level->first; row < level->first + level->size; row++, dh += width) {
      for_each(width, [&](int64_t j, auto example) {
        using T = decltype(example);
        const float* const at = gates + row * 4 * width + j;
        float* const to = d_gates + row * 4 * width + j;
        const T r = load<T>(at), z = load<T>(at + width), n = load<T>(at + 2 * width), remembered = load<T>(at + 3 * width);
        const T d_after = load<T>(dh + j) + load<T>(d_outputs + row * width + j);
        const T d_new = d_after * (1.0f - z) * (1.0f - n * n);
        store(to, d_new);
        store(to + width, d_new * remembered * r * (1.0f - r));
        store(to + 2 * width, d_after * (load<T>(before + row * width + j) - n) * z * (1.0f - z));
        store(to + 3 * width, d_new * r);
        store(dh + j, d_after * z);
      });
    }
    if (level->first) {
      const float* const d_added = d_gates + level->first * 4 * width + width;
      product(level->size, {d_added, 4 * width}, recurrent, {d_hidden.data(), width}, {d_hidden.data(), width});
    }
  }
}

void gru_tangent(int64_t n_rows, int64_t width, const float* tangents, const float* record, const float* weights,
                 const int64_t* sizes, float* after) {
  const float* const before = record + n_rows * width;
  const float* const gates = before + n_rows * width;
  const Panels recurrent(weights, width, 3 * width, true);
  std::unique_ptr<float[]> sums(new float[sizes[0] * 3 * width]);
  const std::vector<float> zeros(sizes[0] * width);
  for (const Level& level : levels_of(n_rows, sizes)) {
    const float* of_h = level.first ? after + level.before * width : zeros.data();
    const Rows<const float> of_gates{tangents + level.first * 4 * width + width, 4 * width};
    product(level.size, {of_h, width}, recurrent, of_gates, {sums.get(), 3 * width});
    const float* moved = sums.get();
    for (int64_t row = level.first; row < level.first + level.size; row++, of_h += width, moved += 3 * width) {
      for_each(width, [&](int64_t j, auto example) {
        using T = decltype(example);
        const float* const at = gates + row * 4 * width + j;
        const T r = load<T>(at), z = load<T>(at + width), n = load<T>(at + 2 * width), remembered = load<T>(at + 3 * width);
        const T of_inner = load<T>(tangents + row * 4 * width + j) + remembered * r * (1.0f - r) * load<T>(moved + j) +
                           r * load<T>(moved + 2 * width + j);
        const T of_update = (load<T>(before + row * width + j) - n) * z * (1.0f - z) * load<T>(moved + width + j);
        store(after + row * width + j, (1.0f - z) * (1.0f - n * n) * of_inner + of_update + z * load<T>(of_h + j));
      });
    }
  }
}

}  // namespace sb3_pgx
