// Packing of weights into the panels that kernels/gemm.h reads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/table.h"

namespace ussfast {

constexpr int64_t group_of(Precision p) { return p == Precision::int8 ? 4 : p == Precision::bfloat16 ? 2 : 1; }
constexpr int64_t element_size(Precision p) { return 4 / group_of(p); }
inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Packs one panel: `columns` columns of `depth` weights from get(k, column); columns that do not exist give 0.
// words: rows of the panel, depth / group_of(precision) rounded up.
// For int8, every column gets a scale (its largest magnitude becomes 127) and the value that cancels the activations'
// zero point: -128 times the sum of its weights.
template <class Get>
void pack_panel(Precision precision, int64_t depth, int64_t words, int64_t columns, const Get& get, char* to,
                float* scales, int32_t* zeros) {
  const int64_t group = group_of(precision);
  std::vector<float> column(words * group);
  for (int64_t n = 0; n < columns; ++n) {
    std::fill(column.begin(), column.end(), 0.0f);
    for (int64_t k = 0; k < depth; ++k) column[k] = get(k, n);
    float peak = 0;
    for (const float value : column) peak = std::max(peak, std::abs(value));
    if (precision == Precision::int8) {
      scales[n] = peak / 127.0f;
      zeros[n] = 0;
    }
    for (size_t k = 0; k < column.size(); ++k) {
      char* at = to + (k / group * columns + n) * 4 + k % group * element_size(precision);
      if (precision == Precision::float32) {
        std::memcpy(at, &column[k], 4);
      } else if (precision == Precision::bfloat16) {
        const uint16_t half = to_bfloat16(column[k]);
        std::memcpy(at, &half, 2);
      } else {
        const auto quantized = int8_t(peak > 0 ? std::nearbyint(column[k] / scales[n]) : 0);
        zeros[n] -= 128 * quantized;
        std::memcpy(at, &quantized, 1);
      }
    }
  }
}

// Row k of a matrix to pack: its value for column i is at[i * step]. Null: zeros.
struct Line {
  const float* at;
  int64_t step;
};

// Packs panels of float32 or bfloat16 at once, reading rows one after the other. columns: the column i that each packed
// one takes, or -1 for zeros; a whole number of panels. to: zeros.
template <class GetLine>
void pack_lines(Precision precision, int64_t depth, int64_t words, int64_t panel, const std::vector<int64_t>& columns,
                const GetLine& line, char* to) {
  const int64_t group = group_of(precision);
  for (int64_t k = 0; k < depth; ++k) {
    const Line from = line(k);
    if (from.at == nullptr) continue;
    char* row = to + k / group * panel * 4 + k % group * element_size(precision);
    for (size_t c = 0; c < columns.size(); c += panel, row += words * panel * 4)
      for (int64_t n = 0; n < panel; ++n) {
        const int64_t i = columns[c + n];
        if (i < 0) continue;
        const float value = from.at[i * from.step];
        if (precision == Precision::float32) {
          std::memcpy(row + n * 4, &value, 4);
        } else {
          const uint16_t half = to_bfloat16(value);
          std::memcpy(row + n * 4, &half, 2);
        }
      }
  }
}

}  // namespace ussfast
