// What the two ops on bands share around their kernels: where bands begin, and the statistics of their norm.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "pack.h"
#include "shared.h"

namespace ussfast {

// Sums of the first 0, 1, ... widths, each taken `times`.
inline std::vector<int64_t> edges_of(at::IntArrayRef widths, int64_t times) {
  constexpr int64_t most = 1 << 24;  // of bins in a band and of what each is taken for: their sums never overflow
  TORCH_CHECK(times > 0 && times <= most, "bands cannot be taken ", times, " times");
  std::vector<int64_t> edges = {0};
  for (const int64_t width : widths) {
    TORCH_CHECK(width > 0 && width <= most, "bands must be 1 to ", most, " bins wide, got ", widths);
    edges.push_back(edges.back() + width * times);
  }
  return edges;
}

// Mean and 1 / sqrt(variance + eps) of every item and band, [batch, bands].
struct BandStatistics {
  std::vector<float> mean, scale;

  // in: with at least one value; its mean and scale are not read.
  BandStatistics(const BandFrames& in, double eps) : mean(in.batch * in.bands), scale(mean.size()) {
    // Few enough rows to be still in the cache when they are read for the second time.
    const int64_t rows = std::clamp<int64_t>(65536 / in.channels(), 1, 64), parts = (in.frames + rows - 1) / rows;
    std::vector<double> moments(in.batch * parts * in.bands * 2);
    run_blocks(in.batch * parts, 2 * round_up(in.channels(), 16) * sizeof(float),
               [&](int64_t first, int64_t last, char* memory) {
                 kernels().band_moments(in, rows, moments.data(), first, last, memory);
               });
    for (int64_t item = 0; item < in.batch; ++item)
      for (int64_t band = 0; band < in.bands; ++band) {
        const auto moment = [&](int64_t part) { return &moments[((item * parts + part) * in.bands + band) * 2]; };
        const auto count = [&](int64_t part) { return double(std::min(rows, in.frames - part * rows)) / in.frames; };
        double centre = 0, square = 0;
        for (int64_t part = 0; part < parts; ++part) centre += count(part) * moment(part)[0];
        const int64_t values = in.frames * (in.edges[band + 1] - in.edges[band]);
        for (int64_t part = 0; part < parts; ++part) {
          const double distance = moment(part)[0] - centre;
          square += moment(part)[1] / values + count(part) * distance * distance;
        }
        mean[item * in.bands + band] = float(centre);
        scale[item * in.bands + band] = float(1 / std::sqrt(square + eps));
      }
  }
};

}  // namespace ussfast
